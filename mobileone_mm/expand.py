"""From fused kernels back to branches that can be trained on."""
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .block import MobileOneBlock
from .checkpoint import CheckpointError, check_fit, is_fused, translate_state_dict

if TYPE_CHECKING:
    from .mobileone import MobileOne


@torch.no_grad()
def expand_state_dict(state_dict: dict[str, Tensor], model: 'MobileOne') -> dict[str, Tensor]:
    """Turn fused weights into weights of the train form with the same output in ``eval()``.

    The fused kernel W, b of a block goes into its first conv branch, whose norm gets mean 0, variance 1, weight
    sqrt(1 + eps) and bias b. All other norms of the block get weight 0 and bias 0; the convolutions of these
    branches keep the values that they have in ``model``, and come into play as the norms' weights leave 0.

    This is a re-expansion, not the branches that were trained: what each of them had learned, and the statistics
    of their norms, are lost in fused weights. Before training on, the norms need the statistics of data
    (:func:`calibrate_norms`, or ``CalibrateNormsHook`` in a config); in ``train()`` the answers are off without.

    Args:
        state_dict: Fused weights of any known layout; a classifier is left out.
        model: Backbone in the train form, with affine norms; it is not changed.

    Raises:
        CheckpointError: These are no fused weights, or they do not fit the arch of ``model``.
        ValueError: ``model`` is in the deploy form, or its norms have no weight and bias.
    """
    if model.deploy:
        raise ValueError('Got a model in the deploy form, which loads fused weights as they are. Leave expand out.')
    fused, _ = translate_state_dict(state_dict)
    if not is_fused(fused):
        raise CheckpointError('Got weights of the train form, which have all branches. Leave expand=True out.')
    check_fit(fused, model)
    expanded = {key: value.clone() for key, value in model.state_dict().items()}
    for name, block in _blocks(model):
        for norm_name, norm in block.named_modules(prefix=name):
            if not isinstance(norm, _BatchNorm):
                continue
            if not norm.affine:
                raise ValueError(f'Expanding needs norms with weight and bias, got {norm}. Leave affine=False out.')
            for parameter, value in (('weight', 0), ('bias', 0), ('running_mean', 0), ('running_var', 1)):
                expanded[f'{norm_name}.{parameter}'].fill_(value)
            expanded[f'{norm_name}.num_batches_tracked'].zero_()
        first = f'{name}.conv_branches.0'
        expanded[f'{first}.conv.weight'].copy_(fused.pop(f'{name}.reparam_conv.weight'))
        expanded[f'{first}.bn.weight'].fill_((1 + block.conv_branches[0].bn.eps) ** 0.5)
        expanded[f'{first}.bn.bias'].copy_(fused.pop(f'{name}.reparam_conv.bias'))
    expanded.update(fused)  # Squeeze-and-Excitation
    return expanded


@torch.no_grad()
def calibrate_norms(model: nn.Module, batches: Iterable, forward: Callable | None = None) -> nn.Module:
    """Give the norms of all MobileOne blocks the statistics of data, without changing the output in ``eval()``.

    A norm with statistics m, v, weight g and bias b gets those of the data, M and V, and with them
    g' = g sqrt((V + eps) / (v + eps)) and b' = b + g (M - m) / sqrt(v + eps): the same function. In ``train()``, on
    such data, it then answers as in ``eval()``.

    Args:
        model: Any model with MobileOne blocks in the train form; changed in place. Its mode is kept.
        batches: What ``forward`` takes, e.g. normalized pictures (N, 3, H, W) for a backbone. A few hundred pictures
            are enough. On several devices, each gives its own, and the statistics are those of all.
        forward: How to run the model on a batch; default: ``model(batch)``.

    Returns:
        ``model``.

    Raises:
        ValueError: There is no batch, or a norm has no weight and bias.
    """
    blocks = [block for _, block in _blocks(model)]
    sums = {norm: [0., 0., 0.] for block in blocks for norm in block._norms()}

    def gather(norm: nn.Module, x: Tensor) -> None:
        x = x.double()
        sums[norm][0] += x.numel() / x.shape[1]
        sums[norm][1] += x.sum((0, 2, 3))
        sums[norm][2] += x.square().sum((0, 2, 3))

    def observe(block: MobileOneBlock, inputs: tuple[Tensor]) -> None:
        x, = inputs
        for branch in block.conv_branches:
            gather(branch.bn, branch.conv(x))
        if block.scale_branch is not None:
            gather(block.scale_branch.bn, block.scale_branch.conv(x[..., ::block.stride, ::block.stride]))
        if block.skip_branch is not None:
            gather(block.skip_branch, x)

    training = {module: module.training for module in model.modules()}
    hooks = [block.register_forward_pre_hook(observe) for block in blocks]
    try:
        model.eval()
        for batch in batches:
            (forward or model)(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    for norm, (count, total, squares) in sums.items():
        if not isinstance(total, Tensor):
            raise ValueError('Calibration needs at least one batch that reaches all blocks, got none.')
        if not norm.affine:
            raise ValueError(f'Calibration needs norms with weight and bias, got {norm}.')
        count = torch.tensor(count, dtype=total.dtype, device=total.device)
        for tensor in (count, total, squares):
            all_reduce(tensor)
        mean = total / count
        var = (squares / count - mean.square()).clamp(min=0)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += scale * (mean - norm.running_mean)
        norm.weight.copy_(scale * (var + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
    return model


def _blocks(model: nn.Module) -> Iterator[tuple[str, MobileOneBlock]]:
    for name, module in model.named_modules():
        if isinstance(module, MobileOneBlock) and not module.deploy:
            yield name, module
