"""The check that a checkpoint fits.

mmengine loads with ``strict=False`` and only logs what did not fit, which is how people train from
scratch without knowing it. Here a checkpoint fits, or it is an error.
"""
import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..arch import ARCHS
from ..utils.errors import CheckpointError, some
from .layouts import find_in_channels, find_prefixes, is_fused, translate_state_dict

if TYPE_CHECKING:
    from ..mobileone import MobileOne


def find_arch(state_dict: dict[str, Tensor]) -> str | None:
    """The name in ``ARCHS`` whose keys and shapes a state dict with our keys has, train or deploy form; or None."""
    shapes = {key: value.shape for key, value in state_dict.items() if not key.endswith('num_batches_tracked')}
    in_channels = find_in_channels(state_dict)
    return next((name for name in ARCHS if _arch_shapes(name, in_channels, is_fused(state_dict)) == shapes), None)


@functools.cache
def _arch_shapes(name: str, in_channels: int, fused: bool) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in _empty_state_dict(name, in_channels, deploy=fused).items()
            if not key.endswith('num_batches_tracked')}


def adapt_state_dict(state_dict: dict[str, Tensor], model: 'MobileOne') -> dict[str, Tensor]:
    """Translate a state dict of any known layout to ours, and check that it fits ``model``.

    Known are ours, Apple's, timm's and mmpretrain's, fused or not, with or without a classifier
    (which is left out), bare or below a prefix such as ``backbone.`` (the rest is left out).

    Args:
        state_dict: What to load.
        model: The backbone that is to load it.

    Returns:
        State dict with the keys of ``model``, or for a deploy-form ``model`` possibly the train
        layout, which its blocks fuse.

    Raises:
        CheckpointError: It is no MobileOne, of another arch, or incomplete; the message says which.
    """
    translated, _ = translate_state_dict(state_dict)
    fused = is_fused(translated)
    if fused and not model.deploy:
        raise CheckpointError(
            "Got fused (deploy) weights, but this MobileOne is in the train form, whose branches cannot be restored "
            "from them. To train, load the unfused checkpoint that they were made from (Apple's end in "
            "_unfused.pth.tar), or put the kernels into fresh branches (in the config of the backbone, "
            "init_cfg=dict(_delete_=True, type='Pretrained', checkpoint=THIS_FILE, expand=True)); to test, build it with "
            'deploy=True (--cfg-options model.backbone.deploy=True).')
    check_fit(translated, model)
    return translated


def missing_backbone(state_dict: dict[str, Tensor], prefix: str) -> str:
    """The message for weights of a whole model that have nothing for the MobileOne below ``prefix``."""
    if '' in find_prefixes(state_dict):
        return (f'Got weights of a backbone alone, expected those of a whole model with keys below {prefix!r}. They go to '
                "the backbone's init_cfg: --cfg-options model.backbone.init_cfg.checkpoint=PATH.")
    got = f'but keys such as {some(state_dict)}' if state_dict else 'perhaps those of a backbone alone (for its init_cfg)'
    return f'Got no weights of a MobileOne below {prefix!r}, {got}. The checkpoint is of another model.'


def check_fit(state_dict: dict[str, Tensor], model: 'MobileOne') -> None:
    """Check that a state dict with our keys fits a model's arch, in the train or in the deploy form, and is finite.

    Absent step counters of norms are filled in.

    Raises:
        CheckpointError: It does not; the message says what was got and expected, and of which arch it is.
    """
    expected = model.state_dict()
    fused = is_fused(state_dict)
    if model.deploy != fused:
        expected = _empty_state_dict(model.arch, model.in_channels, norm_cfg=model.norm_cfg, deploy=fused)
    # Step counters are absent from old checkpoints; 0 is what they start from.
    counters = {key for key in expected.keys() - state_dict.keys() if key.endswith('num_batches_tracked')}
    missing = expected.keys() - state_dict.keys() - counters
    unexpected = state_dict.keys() - expected.keys()
    reshaped = [f'{key} {tuple(state_dict[key].shape)} instead of {tuple(expected[key].shape)}'
                for key in expected if key in state_dict and state_dict[key].shape != expected[key].shape]
    if missing or unexpected or reshaped:
        name = find_arch(state_dict)
        if name is not None and name != model.arch:
            raise CheckpointError(f"These are MobileOne {name!r} weights, but the config says arch={model.arch!r}. Set "
                                  f"arch={name!r}, or load weights of {model.arch!r}.")
        details = [f'missing: {some(missing)}' if missing else '',
                   f'unexpected: {some(unexpected)}' if unexpected else '',
                   f'wrong shape: {some(reshaped)}' if reshaped else '']
        raise CheckpointError(
            f'The checkpoint does not fit MobileOne(arch={model.arch!r}, in_channels={model.in_channels}); '
            f'{"; ".join(filter(None, details))}. It is incomplete, damaged, or of another network.')
    retyped = [f'{key} {state_dict[key].dtype}' for key, value in expected.items()
               if key in state_dict and state_dict[key].is_floating_point() != value.is_floating_point()]
    if retyped:
        raise CheckpointError(f'Tensors of the wrong kind: {some(retyped)}. The checkpoint is damaged.')
    if any(value.is_meta for value in state_dict.values()) and not next(model.parameters()).is_meta:
        raise CheckpointError('The checkpoint holds tensors without values (on the meta device).')
    check_finite(state_dict)
    state_dict.update({key: torch.tensor(0) for key in counters})


def check_finite(state_dict: dict[str, Tensor]) -> None:
    """Check that there is no NaN and no infinity in a state dict, and no negative variance.

    Raises:
        CheckpointError: Naming the first tensors with one.
    """
    broken = [key for key, value in state_dict.items() if value.is_floating_point() and not value.is_meta
              and not (value.isfinite().all() and (not key.endswith('running_var') or (value >= 0).all()))]
    if broken:
        raise CheckpointError(f'The checkpoint has NaN, infinite or impossible values in {some(broken)}. It is damaged, or '
                              'of a training that diverged; take an earlier one.')


def _empty_state_dict(*args, **kwargs) -> dict[str, Tensor]:
    """Keys and shapes of a backbone, without memory for it."""
    from ..mobileone import MobileOne  # which imports this module

    with torch.device('meta'):
        return MobileOne(*args, **kwargs).state_dict()
