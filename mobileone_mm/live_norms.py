"""Training with live norms in fewer passes over the maps, on the CPU in channels_last.

A live batch norm needs mean and variance of what its branch computes. Where the branch is linear in
single pixels, both follow from mean m and covariance M of the block's input: a pointwise
convolution W has the mean W m and the variance diag(W M W^T). So a pointwise block of several
branches is one convolution in training too, and in a depthwise block the scale and the skip branch
are one affine map of the channels. Outputs, gradients and running statistics are those of the
branches; ``benchmarks/live_norms.py`` measures what it saves.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from .eager import is_eager_on_cpu
from .norm_functions import affine, channel_statistics, product_statistics
from .reparam import fold_bn, identity_kernel, sum_kernels

# A covariance costs C_in products per pixel, in float64, and saves those of all branches but one, and
# the norms. By measurement it pays from this number of pixels times branches for each channel on.
_LEAST_PIXELS = 16


def sum_live_branches(block: nn.Module, x: Tensor) -> Tensor | None:
    """The sum of a block's branches where all norms are live.

    Args:
        block: A :class:`.block.MobileOneBlock` in the train form.
        x: Its input, (N, C_in, H, W).

    Returns:
        (N, C_out, H, W), or None where the branches are to be called, for a kind of block that would not
        gain, a frozen or synchronized norm, a hook, or anything else than convolutions and norms; in
        a graph, in a transform, under autocast; not on a CPU, not in channels_last.
    """
    pixels = x.numel() // max(1, x.shape[1])
    if block.kernel_size == 1:
        gains = block.groups == block.stride == 1 and block.num_conv_branches > 1 \
            and pixels * block.num_conv_branches >= _LEAST_PIXELS * block.in_channels
        way = _pointwise
    else:
        gains = block.groups == block.in_channels and block.skip_branch is not None
        way = _depthwise
    # Many blocks' geometry says no, which costs nothing to see; the branches are looked through last.
    if not gains or pixels < 2 or x.dtype not in (torch.float32, torch.float64) \
            or not x.is_contiguous(memory_format=torch.channels_last) or not is_eager_on_cpu(x, block) \
            or not _are_untouched(block, x):
        return None
    return way(block, x, pixels)


def _pointwise(block: nn.Module, x: Tensor, pixels: int) -> Tensor:
    """A pointwise block as one convolution."""
    weights = torch.cat([branch.conv.weight for branch in block.conv_branches])
    mean, variance, variances = product_statistics(x, weights.flatten(1))
    means = (weights.flatten(1) @ mean).chunk(block.num_conv_branches)
    folded = [_fold(branch.bn, branch.conv.weight, *statistics, pixels) for branch, *statistics in zip(
        block.conv_branches, means, variances.chunk(block.num_conv_branches), strict=True)]
    if block.skip_branch is not None:
        folded.append(_fold(block.skip_branch, identity_kernel(block.in_channels, 1, 1, x), mean, variance, pixels))
    return F.conv2d(x, *sum_kernels(folded))


def _depthwise(block: nn.Module, x: Tensor, pixels: int) -> Tensor:
    """The conv branches of a depthwise block as they are, and the other two in one."""
    out = _scale_and_skip(block, x, pixels)
    for branch in block.conv_branches:
        out += branch(x)
    return out


def _scale_and_skip(block: nn.Module, x: Tensor, pixels: int) -> Tensor:
    """Scale and skip branch of a depthwise block as one affine map."""
    mean, variance = channel_statistics(x)
    kernel = block.scale_branch.conv.weight
    factor = kernel.flatten()
    scale, shift = sum_kernels([
        _fold(block.scale_branch.bn, kernel, factor * mean, factor.square() * variance, pixels),
        _fold(block.skip_branch, torch.ones_like(kernel), mean, variance, pixels)])
    return affine(x, scale.flatten(), shift)


def _fold(norm: nn.BatchNorm2d, kernel: Tensor, mean: Tensor, variance: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Fold a live norm into the convolution before it, and update its running statistics as torch does."""
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        share = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.mul_(1 - share).add_(mean, alpha=share)
        norm.running_var.mul_(1 - share).add_(variance, alpha=share * pixels / (pixels - 1))
    return fold_bn(kernel, None, mean, variance, norm.weight, norm.bias, norm.eps)


_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')


def _are_untouched(block: nn.Module, x: Tensor) -> bool:
    """Whether all that the branches do is to convolve, and to normalize by the batch's statistics."""
    branches = [branch for branch in (*block.conv_branches, block.scale_branch) if branch is not None]
    norms = [*(branch.bn for branch in branches), *([] if block.skip_branch is None else [block.skip_branch])]
    return not _has_any_global_hook() \
        and all(_is_untouched(branch, nn.Sequential) and list(branch._modules) == ['conv', 'bn']
                and _is_untouched(branch.conv, nn.Conv2d)
                and branch.conv.bias is None and branch.conv.weight.dtype == x.dtype for branch in branches) \
        and all(_is_untouched(norm, nn.BatchNorm2d) and norm.training and norm.affine and norm.track_running_stats
                and None not in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
                and norm.weight.dtype == norm.running_mean.dtype == x.dtype
                for norm in norms)


def _is_untouched(module: nn.Module, expected: type) -> bool:
    """Whether a module is of the very type, which torch.nn.utils.parametrize changes too, and nothing hangs on it."""
    state = module.__dict__
    return type(module) is expected and 'forward' not in state and not any(state[hooks] for hooks in _HOOKS)
