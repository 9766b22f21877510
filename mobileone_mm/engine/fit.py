"""The check that weights fit a whole model: each MobileOne in it, and its neck and head.

Called before a whole model loads weights, by ``CheckpointFitHook`` and :func:`.trained.load_trained`; of one backbone
:mod:`..checkpoint.fit` does it.
"""
import logging
from collections.abc import Sequence

from mmengine.logging import print_log
from torch import Tensor, nn

from ..checkpoint.fit import (
    check_finite,
    check_fit,
    check_loadable,
    describe,
    differences,
    mark_checked,
    missing_backbone,
    shapes,
    shapes_in_form,
)
from ..checkpoint.layouts import as_classifier, fused_blocks, translate_state_dict
from ..mobileone import MobileOne
from ..reparameterize import train_form_blocks
from ..utils.errors import CheckpointError


def fit_model(state_dict: dict[str, Tensor], model: nn.Module, switches: bool,
              ignore: Sequence[str] = ()) -> dict[str, Tensor]:
    """Check that weights fit a whole model, and translate those of each MobileOne in it.

    Args:
        state_dict: Weights of the model. Each MobileOne may have another layout, and each block its own form.
        model: Any model. It is only changed if the weights fit.
        switches: Whether blocks in the train form whose weights are fused go to the deploy form, in place, with these
            weights; else that is an error.
        ignore: Beginnings of the keys that may be left out; they are logged, and keep the model's
            values.

    Returns:
        The state dict that the model is to load; loading it does not check it again.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape, or not finite; the
            message lists them.
    """
    backbones = {f'{name}.' if name else '': module
                 for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, MobileOne)}
    state_dict = as_classifier(state_dict, model)
    if ignore:
        state_dict = _with_own_values(state_dict, model, ignore)
    checked = {}
    for prefix, backbone in backbones.items():
        weights = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
        if not weights:
            raise CheckpointError(missing_backbone(state_dict, prefix))
        weights = (check_fit if switches else check_loadable)(translate_state_dict(weights)[0], backbone)
        checked |= {prefix + key: value for key, value in weights.items()}
    rest = {key: value for key, value in state_dict.items() if not key.startswith(tuple(backbones))}
    own = shapes_in_form(model, fused_blocks(checked | rest))
    own = {key: shape for key, shape in own.items() if not key.startswith(tuple(backbones))}
    check_keys(rest, own, type(model).__name__)
    check_finite(rest)
    fitting = mark_checked(rest | checked, backbones)
    if switches:
        switch_blocks(model, fitting)
    return fitting


def switch_blocks(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put those blocks of a model into the deploy form, with these weights, whose weights are fused."""
    fused = fused_blocks(weights)
    for name, block in list(train_form_blocks(model)):
        if name in fused:
            own, prefix = next(block.parameters()), f'{name}.' if name else ''
            kernel = (weights[f'{prefix}reparam_conv.{part}'].to(own) for part in ('weight', 'bias'))
            block.switch_to_deploy(tuple(kernel))


def _with_own_values(state_dict: dict[str, Tensor], model: nn.Module, ignore: Sequence[str]) -> dict[str, Tensor]:
    ignore, own = tuple(ignore), model.state_dict()
    left_out = sorted(key for key in {*state_dict, *own} if key.startswith(ignore))
    print_log(f'Left out of the checkpoint, as asked for by ignore={ignore}: {left_out}', 'current', logging.WARNING)
    return {key: value for key, value in state_dict.items() if not key.startswith(ignore)} \
        | {key: own[key] for key in left_out if key in own}


def check_keys(weights: dict[str, Tensor], expected: dict[str, tuple[int, ...]], name: str) -> None:
    """Check that weights have the keys and shapes that a model, or a part of one, expects.

    Raises:
        CheckpointError: They do not; the message lists the first of each kind, and how to leave
            them out.
    """
    problems = differences(shapes(weights), expected)
    if problems:
        # The first two names of each key, such as bbox_head.cls_convs.
        beginnings = {'.'.join(key.split(' ')[0].split('.')[:2]) for keys in problems.values() for key in keys}
        raise CheckpointError(
            f'The checkpoint does not fit this {name}; {describe(problems, 6)}. Load one of the same config, or, to '
            'train on the rest and leave these at their initial values, name their beginnings: --cfg-options '
            f'default_hooks.checkpoint_fit.ignore="[{",".join(sorted(beginnings))}]"')
