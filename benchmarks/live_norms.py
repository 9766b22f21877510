"""Ways to train a block with live batch norms, tried and not used: python benchmarks/live_norms.py

Forward and backward of S0's kinds of blocks, as the plain sum of the branches and in each way, in
interleaved runs; ratios are of medians, plain over tried. No way computes the running statistics of
the norms that it replaces, which would cost more time.

    merged      the k conv branches as one convolution and one batch norm
    covariance  pointwise: with the mean m and covariance M of the input, the branch of kernel W has
                the mean W m and the variance diag(W M W^T), so that all branches fold into one
                convolution; float32 loses digits, float64 keeps them
    affine      depthwise: the statistics of scale and skip branch follow from those of the
                channels, and both branches are one affine map
"""
import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import torch
import torch.nn.functional as F
from interleaved import median_seconds
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mobileone_mm import MobileOneBlock

# Kernel size, channels in and out, side of the input at 320x320, stride.
KINDS = [(1, 48, 48, 80, 1), (1, 48, 128, 40, 1), (1, 128, 128, 40, 1), (1, 128, 256, 20, 1), (1, 256, 256, 20, 1),
         (1, 256, 1024, 10, 1), (3, 48, 48, 80, 1), (3, 48, 48, 80, 2), (3, 128, 128, 40, 1), (3, 128, 128, 40, 2),
         (3, 256, 256, 20, 1), (3, 256, 256, 20, 2)]


def per_channel(values: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)."""
    return values.reshape(1, -1, 1, 1)


def subsampled(block: MobileOneBlock, x: Tensor) -> Tensor:
    """The pixels of the input that a block's 1x1 branch uses."""
    return x[..., ::block.stride, ::block.stride]


def plain(block: MobileOneBlock, x: Tensor) -> Tensor:
    """The branches as they are."""
    return block.sum_branches(x)


def merged(block: MobileOneBlock, x: Tensor) -> Tensor:
    """All k conv branches in one call, and their norms.

    The k outputs of a channel are adjacent, as depthwise blocks need it.
    """
    branches = block.conv_branches
    weight, scale, shift = (torch.stack(tensors, 1).flatten(0, 1) for tensors in zip(
        *((branch.conv.weight, branch.bn.weight, branch.bn.bias) for branch in branches), strict=True))
    y = F.conv2d(x, weight, None, block.stride, block.padding, 1, block.groups)
    y = F.batch_norm(y, None, None, scale, shift, True, eps=branches[0].bn.eps)
    out = y.unflatten(1, (-1, len(branches))).sum(2)
    if block.scale_branch is not None:
        out = out + block.scale_branch(subsampled(block, x))
    return out if block.skip_branch is None else out + block.skip_branch(x)


def covariance(block: MobileOneBlock, x: Tensor, dtype: torch.dtype) -> Tensor:
    """A pointwise block as one convolution, its statistics in ``dtype``."""
    branches, k = block.conv_branches, block.num_conv_branches
    mean = x.mean((0, 2, 3))
    centred = (x - per_channel(mean)).flatten(2).to(dtype)
    matrix = torch.bmm(centred, centred.transpose(1, 2)).sum(0) * (x.shape[1] / x.numel())
    weights = torch.cat([branch.conv.weight for branch in branches]).flatten(1)
    variance = ((weights.to(dtype) @ matrix) * weights).sum(1)
    eps = branches[0].bn.eps
    scale = torch.cat([branch.bn.weight for branch in branches]) * (variance + eps).rsqrt().to(x.dtype)
    shift = torch.cat([branch.bn.bias for branch in branches]) - (weights @ mean) * scale
    kernel, bias = (weights * scale[:, None]).unflatten(0, (k, -1)).sum(0), shift.unflatten(0, (k, -1)).sum(0)
    if block.skip_branch is not None:
        scale = block.skip_branch.weight * (matrix.diagonal() + eps).rsqrt().to(x.dtype)
        kernel, bias = kernel + torch.diag(scale), bias + block.skip_branch.bias - mean * scale
    return F.conv2d(x, kernel[:, :, None, None], bias)


def affine(block: MobileOneBlock, x: Tensor) -> Tensor:
    """The conv branches of a depthwise block, and scale and skip branch as one map of its channels."""
    out = sum(branch(x) for branch in block.conv_branches)
    centre = subsampled(block, x)
    variance, mean = torch.var_mean(centre, (0, 2, 3), correction=0)
    (conv, norm), skip = block.scale_branch, block.skip_branch
    weight = conv.weight.flatten()
    scale, shift = norm.weight * (weight.square() * variance + norm.eps).rsqrt() * weight, norm.bias
    if skip is not None:
        scale, shift = scale + skip.weight * (variance + skip.eps).rsqrt(), shift + skip.bias
    return out + torch.addcmul(per_channel(shift - mean * scale), centre, per_channel(scale))


WAYS = {
    'merged': merged,
    'covariance, float32': lambda block, x: covariance(block, x, x.dtype),
    'covariance, float64': lambda block, x: covariance(block, x, torch.float64),
    'affine': affine,
}


def results(block: MobileOneBlock, way: Callable, x: Tensor) -> list[Tensor]:
    """Output, and gradients to the input and to all parameters, in float64."""
    block, x = deepcopy(block).double(), x.detach().double().requires_grad_()
    out = way(block, x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out, x.grad, *(parameter.grad for parameter in block.parameters())]


def check(block: MobileOneBlock, way: Callable, x: Tensor) -> None:
    """In float64 a way has the results of the branches."""
    for got, expected in zip(results(block, way, x), results(block, plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-8 * max(1, expected.abs().max().item()))


def step(way: Callable, block: MobileOneBlock, x: Tensor) -> None:
    """Forward and backward."""
    way(block, x).square().mean().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--branches', type=int, default=4, help='k (default: %(default)s, as in S0)')
    parser.add_argument('--batch', type=int, default=4, help='default: %(default)s')
    parser.add_argument('--runs', type=int, default=15, help='default: %(default)s')
    args = parser.parse_args()
    table = Table('block', 'plain (ms)', *WAYS,
                  title=f'CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, '
                        f'batch {args.batch}, k = {args.branches}, plain over tried, medians of {args.runs} runs')
    for size, c_in, c_out, side, stride in KINDS:
        groups = c_in if size > 1 else 1
        block = MobileOneBlock(c_in, c_out, size, stride, groups=groups, num_conv_branches=args.branches)
        for parameter in block.parameters():
            if parameter.dim() == 1:  # of norms
                nn.init.normal_(parameter, 1, 0.3)
        x = torch.randn(args.batch, c_in, side, side, requires_grad=True)
        ways = {'plain': plain} | {name: way for name, way in WAYS.items()
                                   if name == 'merged' or (name == 'affine') == (size > 1)}
        for way in ways.values():
            check(block, way, x)
        kind = f'{"pointwise" if groups == 1 else "depthwise"} {c_in} -> {c_out}, {side}x{side}, stride {stride}'
        medians = median_seconds({name: partial(step, way, block, x) for name, way in ways.items()}, args.runs, kind)
        table.add_row(kind, f'{1000 * medians["plain"]:.1f}',
                      *(f'{medians["plain"] / medians[name]:.2f}' if name in ways else '' for name in WAYS))
    Console(width=140).print(table)


if __name__ == '__main__':
    main()
