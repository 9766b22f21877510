"""The check of ``init_cfg``, which would otherwise fail only in the initialization, after the data sets were read."""
from difflib import get_close_matches

from mmengine.registry import WEIGHT_INITIALIZERS

from .utils.checks import check_bool
from .utils.errors import ArgumentError
from .utils.types import type_name

_PRETRAINED = {'type', 'checkpoint', 'prefix', 'map_location'}  # as in mmengine
_OURS = {'drop_se', 'expand', 'trust'}


def initializer(init_cfg: dict) -> str:
    """The name under which an initialization is registered: ``Pretrained``, and of its class ``PretrainedInit``."""
    return type_name(init_cfg).removesuffix('Init')


def check_init_cfg(init_cfg: dict | list | None, norm_cfg: dict) -> None:
    """Check an ``init_cfg`` of a backbone or a block.

    Args:
        init_cfg: mmengine's initialization config.
        norm_cfg: The norms of the module.

    Raises:
        ArgumentError: There is no such initialization, or it does not take these arguments or norms.
    """
    if init_cfg is not None and not isinstance(init_cfg, (dict, list)):
        raise ArgumentError(f'init_cfg must be None, a dict or a list of dicts, got {init_cfg!r}. Weights are named by '
                            "init_cfg=dict(type='Pretrained', checkpoint=PATH).")
    entries = init_cfg if isinstance(init_cfg, list) else [init_cfg] if init_cfg else []
    for entry in entries:
        if not isinstance(entry, dict) or 'type' not in entry:
            raise ArgumentError("An init_cfg is a dict with a type, such as dict(type='Pretrained', checkpoint=PATH); "
                                f'got {entry!r}.')
        if initializer(entry) == 'Pretrained':
            _check_pretrained(entry, is_alone=len(entries) == 1)
        else:
            _check_initializer(entry)
        if initializer(entry) == 'NearIdentity' and not norm_cfg.get('affine', True):
            raise ArgumentError("init_cfg of type 'NearIdentity' sets the weight of norms, and those of this norm_cfg "
                                f'have none: {norm_cfg}. Leave affine=False out, or NearIdentity.')
        if entry.get('expand') and not norm_cfg.get('affine', True):
            raise ArgumentError('expand=True in init_cfg needs norms with weight and bias, and those of this norm_cfg '
                                f'have none: {norm_cfg}. Leave affine=False out, or expand=True.')


def _check_pretrained(entry: dict, is_alone: bool) -> None:
    if unknown := sorted(entry.keys() - _PRETRAINED - _OURS):
        raise ArgumentError(f"init_cfg of type 'Pretrained' takes {', '.join(sorted(_PRETRAINED | _OURS))}; got "
                            f'{", ".join(unknown)}.')
    for option in sorted(entry.keys() & _OURS):
        check_bool(f'{option} of init_cfg', entry[option])
    if not isinstance(entry.get('checkpoint'), str) or not entry['checkpoint']:
        raise ArgumentError("init_cfg of type 'Pretrained' needs checkpoint, a path or an URL; got "
                            f'{entry.get("checkpoint")!r}.')
    prefix = entry.get('prefix')
    if prefix is not None and (not isinstance(prefix, str) or not prefix.strip('.')):
        raise ArgumentError("prefix of init_cfg is what stands before the backbone's keys, such as 'backbone.'; "
                            f'got {prefix!r}. Leave it out for weights of the backbone alone.')
    if not is_alone:
        raise ArgumentError("init_cfg of type 'Pretrained' stands alone, got it in a list with others. Leave those "
                            'out: the checkpoint sets all weights.')


def _check_initializer(entry: dict) -> None:
    kind = entry['type']
    if isinstance(kind, str) and WEIGHT_INITIALIZERS.get(kind) is None:
        near = get_close_matches(kind, WEIGHT_INITIALIZERS.module_dict)
        raise ArgumentError(f'init_cfg: there is no initialization {kind!r}. '
                            + (f'Did you mean {", ".join(near)}? ' if near else '')
                            + f'There are {", ".join(sorted(WEIGHT_INITIALIZERS.module_dict))}.')
    try:
        WEIGHT_INITIALIZERS.build({key: value for key, value in entry.items() if key != 'override'})
    except (AssertionError, TypeError, ValueError) as error:
        raise ArgumentError(f'init_cfg={entry!r} is refused by its type: {error}. Correct its arguments.') from error
