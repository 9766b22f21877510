"""Calibration: norms get the statistics of data."""
from collections.abc import Callable, Iterable

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from ..block import MobileOneBlock
from ..reparameterize import train_form_blocks
from ..utils.errors import ArgumentError


@torch.no_grad()
def calibrate_norms(model: nn.Module, batches: Iterable, forward: Callable | None = None) -> nn.Module:
    """Give the norms of all MobileOne blocks the statistics of data; ``eval()`` stays as it is.

    A norm with statistics m, v, weight g and bias b gets the statistics M, V of the data, and
    g' = g sqrt((V + eps) / (v + eps)) and b' = b + g (M - m) / sqrt(v + eps): the same function. On
    such data, its output in ``train()`` is then that in ``eval()``.

    Args:
        model: Any model with MobileOne blocks in the train form; changed in place. Its mode is
            kept.
        batches: Arguments of ``forward``, e.g. normalized images (N, 3, H, W) for a backbone. A few
            hundred images are enough. With several devices, each passes different batches, and the
            statistics are those of all.
        forward: How to run the model on a batch; default: ``model(batch)``.

    Returns:
        ``model``.

    Raises:
        ArgumentError: There is no batch, or a norm has no weight and bias.
    """
    blocks = [block for _, block in train_form_blocks(model)]
    sums = {norm: [0., 0., 0.] for block in blocks for norm in block.norms()}

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
            raise ArgumentError('Calibration needs at least one batch that reaches all blocks, got none.')
        if not norm.affine:
            raise ArgumentError(f'Calibration needs norms with weight and bias, got {norm}.')
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
