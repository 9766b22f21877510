"""The check that weights fit a whole model: each MobileOne in it, and its neck and head."""
import logging
from collections.abc import Sequence

from mmengine.logging import print_log
from torch import Tensor, nn

from ..checkpoint.fit import check_finite, check_loadable, describe, differences, mark_checked, missing_backbone
from ..checkpoint.layouts import as_classifier, is_fused, translate_state_dict
from ..mobileone import MobileOne
from ..utils.errors import CheckpointError


def fit_model(state_dict: dict[str, Tensor], model: nn.Module, switches: bool,
              ignore: Sequence[str] = ()) -> dict[str, Tensor]:
    """Check that weights fit a whole model, and translate those of each MobileOne in it.

    Args:
        state_dict: Weights of the model. Each MobileOne may have another layout, and its own form.
        model: Any model.
        switches: Whether a MobileOne in the train form goes to the deploy form, in place, if its
            weights are fused; else that is an error.
        ignore: Beginnings of the keys that may be left out; they are logged, and keep the model's
            values.

    Returns:
        The state dict that the model is to load; loading it does not check it again.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape, or not finite; the
            message lists them.
    """
    backbones = {f'{name}.' if name else '': module for name, module in model.named_modules()
                 if isinstance(module, MobileOne)}
    state_dict = as_classifier(state_dict, model)
    if ignore:
        state_dict = _with_own_values(state_dict, model, ignore)
    checked = {}
    for prefix, backbone in backbones.items():
        weights = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
        if not weights:
            raise CheckpointError(missing_backbone(state_dict, prefix))
        checked |= {prefix + key: value for key, value in _fit_backbone(weights, backbone, switches).items()}
    rest, own = ({key: value for key, value in weights.items() if not key.startswith(tuple(backbones))}
                 for weights in (state_dict, model.state_dict()))
    check_keys(rest, own, type(model).__name__)
    check_finite(rest)
    return mark_checked(rest | checked, backbones)


def _fit_backbone(weights: dict[str, Tensor], backbone: MobileOne, switches: bool) -> dict[str, Tensor]:
    translated, _ = translate_state_dict(weights)
    if switches and is_fused(translated):
        backbone.switch_to_deploy()
    return check_loadable(translated, backbone)


def _with_own_values(state_dict: dict[str, Tensor], model: nn.Module, ignore: Sequence[str]) -> dict[str, Tensor]:
    ignore, own = tuple(ignore), model.state_dict()
    left_out = sorted(key for key in {*state_dict, *own} if key.startswith(ignore))
    print_log(f'Left out of the checkpoint, as asked for by ignore={ignore}: {left_out}', 'current', logging.WARNING)
    return {key: value for key, value in state_dict.items() if not key.startswith(ignore)} \
        | {key: own[key] for key in left_out if key in own}


def check_keys(got: dict[str, Tensor], expected: dict[str, Tensor], name: str) -> None:
    """Check that weights have the keys and shapes that a model, or a part of one, expects.

    Raises:
        CheckpointError: They do not; the message lists the first of each kind, and how to leave
            them out.
    """
    problems = differences(*({key: tuple(value.shape) for key, value in weights.items()}
                             for weights in (got, expected)))
    if problems:
        # The first two names of each key, such as bbox_head.cls_convs.
        beginnings = {'.'.join(key.split(' ')[0].split('.')[:2]) for keys in problems.values() for key in keys}
        raise CheckpointError(
            f'The checkpoint does not fit this {name}; {describe(problems, 6)}. Load one of the same config, or, to '
            'train on the rest and leave these at their initial values, name their beginnings: --cfg-options '
            f'default_hooks.checkpoint_fit.ignore="[{",".join(sorted(beginnings))}]"')
