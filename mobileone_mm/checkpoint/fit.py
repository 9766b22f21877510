"""The check that weights fit a backbone.

mmengine loads with ``strict=False`` and only logs what did not fit, so that people train from
scratch without knowing it. Here a checkpoint that does not fit is an error.
"""
from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..arch import arch_of_shapes, branch_shapes
from ..block import NO_WAY_BACK, MobileOneBlock
from ..utils.errors import CheckpointError, some
from .layouts import find_in_channels, find_prefixes, fused_blocks, is_fused, translate_state_dict

_CHECKED = 'mobileone_mm.checked'


def adapt_state_dict(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Translate a state dict of any known layout to ours, and check that it fits ``model``.

    Known are ours, Apple's, timm's and mmpretrain's, fused or not, with or without a classifier
    (which is left out), bare or below a prefix such as ``backbone.`` (the rest is left out).

    Args:
        state_dict: What to load.
        model: The ``MobileOne`` that is to load it.

    Returns:
        State dict with the keys of ``model``, or for a deploy-form ``model`` possibly the train
        layout, which its blocks fuse.

    Raises:
        CheckpointError: It is no MobileOne, of another arch, or incomplete; the message says which.
    """
    return check_loadable(translate_state_dict(state_dict)[0], model)


def check_loadable(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Check that ``model`` can load a state dict with our keys as it is: :func:`.check_fit`, and each block's form.

    Returns and raises as :func:`.adapt_state_dict`.
    """
    fused = fused_blocks(state_dict)
    if any(isinstance(module, MobileOneBlock) and not module.deploy and name in fused
           for name, module in model.named_modules(remove_duplicate=False)):
        raise CheckpointError(NO_WAY_BACK)
    return check_fit(state_dict, model)


def missing_backbone(state_dict: dict[str, Tensor], prefix: str) -> str:
    """The message for weights of a whole model with nothing for the MobileOne at ``prefix``."""
    if '' in find_prefixes(state_dict):
        return (f'Got weights of a backbone alone, expected those of a whole model with keys below {prefix!r}. They go '
                "to the backbone's init_cfg: --cfg-options model.backbone.init_cfg.checkpoint=PATH.")
    got = f'but keys such as {some(state_dict)}' if state_dict else \
        'perhaps those of a backbone alone (for its init_cfg)'
    return f'Got no weights of a MobileOne below {prefix!r}, {got}. The checkpoint is of another model.'


def check_fit(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Check that a state dict with our keys fits a model's arch and is finite, whatever the form of either.

    Returns:
        The state dict. Where old checkpoints lack the step counters of norms, they are added as 0,
        their initial value.

    Raises:
        CheckpointError: It does not fit; the message says what was got and expected, and of which
            arch it is.
    """
    expected, got = shapes_in_form(model, fused_blocks(state_dict)), shapes(state_dict)
    counters = {key for key in expected.keys() - got.keys() if key.endswith('num_batches_tracked')}
    problems = differences(got, {key: shape for key, shape in expected.items() if key not in counters})
    if problems:
        name = find_arch(state_dict)
        if name is not None and name != model.arch:
            raise CheckpointError(f"These are MobileOne {name!r} weights, but the config says arch={model.arch!r}. Set "
                                  f"arch={name!r}, or load weights of {model.arch!r}.")
        if problems.keys() == {'of another shape'} and find_in_channels(state_dict) != model.in_channels \
                and all(key.startswith('stage0.') for key in problems['of another shape']):
            raise CheckpointError(_other_channels(find_in_channels(state_dict), model.in_channels))
        raise CheckpointError(
            f'The checkpoint does not fit MobileOne(arch={model.arch!r}, in_channels={model.in_channels}); '
            f'{describe(problems)}. It is incomplete, damaged, or of another network.')
    retyped = [f'{key} {value.dtype}' for key, value in state_dict.items()
               if value.is_floating_point() == key.endswith('num_batches_tracked')]
    if retyped:
        raise CheckpointError(f'Tensors of the wrong kind: {some(retyped)}. The checkpoint is damaged.')
    if any(value.is_meta for value in state_dict.values()) and not next(model.parameters()).is_meta:
        raise CheckpointError('The checkpoint holds tensors without values (on the meta device).')
    check_finite(state_dict)
    return state_dict | {key: torch.tensor(0) for key in counters}


def _other_channels(got: int, expected: int) -> str:
    gray = ("LoadImageFromFile without color_type='grayscale' makes three equal ones of a gray image"
            if (got, expected) == (3, 1) else 'with mean and std of as many')
    return (f'These weights take images of {got} channels, and this MobileOne has in_channels={expected}. Either load '
            f'images in {got} channels and set in_channels={got} ({gray}), or train from scratch: --cfg-options '
            'model.backbone.init_cfg=None.')


def find_arch(state_dict: dict[str, Tensor]) -> str | None:
    """The name in ``ARCHS`` of a state dict with our keys, in train or deploy form; or None."""
    return arch_of_shapes(shapes(state_dict), find_in_channels(state_dict), is_fused(state_dict))


def differences(got: dict[str, tuple], expected: dict[str, tuple]) -> dict[str, list[str]]:
    """Keys that are missing, unexpected, or of another shape than expected, by these kinds."""
    found = {
        'missing': list(expected.keys() - got.keys()),
        'unexpected': list(got.keys() - expected.keys()),
        'of another shape': [f'{key} {got[key]} instead of {shape}' for key, shape in expected.items()
                             if key in got and got[key] != shape],
    }
    return {what: keys for what, keys in found.items() if keys}


def describe(problems: dict[str, list[str]], limit: int = 3) -> str:
    """What :func:`.differences` found, in words."""
    return '; '.join(f'{what}: {some(keys, limit)}' for what, keys in problems.items())


def check_finite(state_dict: dict[str, Tensor]) -> None:
    """Check that there is no NaN and no infinity in a state dict, and no negative variance.

    Raises:
        CheckpointError: Naming the first tensors with one.
    """
    broken = [key for key, value in state_dict.items() if value.is_floating_point() and not value.is_meta
              and not (value.isfinite().all() and (not key.endswith('running_var') or (value >= 0).all()))]
    if broken:
        raise CheckpointError(f'The checkpoint has NaN, infinite or impossible values in {some(broken)}. It is '
                              'damaged, or of a training that diverged; take an earlier one.')


def shapes(state_dict: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {key: tuple(value.shape) for key, value in state_dict.items()}


def shapes_in_form(model: nn.Module, fused: set[str]) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a model's weights, if the blocks named in ``fused`` were fused, and the others were not."""
    found = shapes(model.state_dict())
    for name, block in model.named_modules(remove_duplicate=False):  # a module may have two names, as its weights have
        if isinstance(block, MobileOneBlock) and block.deploy != (name in fused):
            prefix, affine = f'{name}.' if name else '', block.norm_cfg.get('affine', True)
            for key in branch_shapes(vars(block), block.deploy, affine):
                found.pop(prefix + key, None)
            other = branch_shapes(vars(block), not block.deploy, affine)
            found |= {prefix + key: shape for key, shape in other.items()}
    return found


def mark_checked(state_dict: dict[str, Tensor], prefixes: Iterable[str] = ('', )) -> OrderedDict[str, Tensor]:
    """Note in a state dict that the backbones below ``prefixes`` were adapted and checked.

    The next loading then does not check them again. The note is in the metadata, which torch and
    mmengine pass to each module by its prefix. It names keys and shapes, and does not hold if these
    are changed in between; values that are changed in between are not looked at.
    """
    marked = OrderedDict(state_dict)
    marked._metadata = dict(getattr(state_dict, '_metadata', {}))
    for prefix in prefixes:
        own = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
        name = prefix[:-1]
        marked._metadata[name] = marked._metadata.get(name, {}) | {_CHECKED: shapes(own)}
    return marked


def was_checked(state_dict: dict[str, Tensor], metadata: dict, model: nn.Module) -> bool:
    """Whether :func:`.mark_checked` noted exactly these keys and shapes, and they are those of ``model`` in some form.

    The note is removed: it holds once, and is not saved with weights that somebody hands on.
    """
    noted = metadata.pop(_CHECKED, None)
    return noted is not None and noted == shapes(state_dict) == shapes_in_form(model, fused_blocks(state_dict))
