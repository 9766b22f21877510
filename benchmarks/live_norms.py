"""Ways to train a block with live batch norms that were tried and are not used: python benchmarks/live_norms.py

Forward and backward of S0's kinds of blocks, as the plain sum of the branches and as each way, in interleaved runs; ratios
are of medians, plain over tried. The ways do not update running statistics.

    merged      the k conv branches as one convolution and one batch norm
    covariance  pointwise: with the mean m and covariance M of the input, the branch of kernel W has the mean W m and the
                variance diag(W M W^T), so that all branches fold into one convolution; float32 loses digits, float64 keeps
                them
    affine      depthwise: the statistics of scale and skip branch follow from the channels' own, and both are one affine map
"""
import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from mobileone_mm import MobileOneBlock

# Channels in and out, height and width at 320x320.
POINTWISE = [(48, 48, 80), (48, 128, 40), (128, 128, 40), (256, 256, 20), (256, 1024, 10), (1024, 1024, 10)]
DEPTHWISE = [(48, 48, 80), (128, 128, 40), (256, 256, 20)]


def per_channel(values: Tensor) -> Tensor:
    """(C,) -> (1, C, 1, 1)."""
    return values.reshape(1, -1, 1, 1)


def batch_norm(y: Tensor, norms: list) -> Tensor:
    """One batch norm over the channels of several, in their order."""
    weight, bias = (torch.cat([getattr(norm, name) for norm in norms]) for name in ('weight', 'bias'))
    return F.batch_norm(y, None, None, weight, bias, True, eps=norms[0].eps)


def plain(block: MobileOneBlock, x: Tensor) -> Tensor:
    """The branches as they are."""
    return block._sum_branches(x)


def merged(block: MobileOneBlock, x: Tensor) -> Tensor:
    """All k conv branches in one call; of a depthwise block, a channel's k outputs must lie side by side in between."""
    branches, k = block.conv_branches, block.num_conv_branches
    weight = torch.stack([branch.conv.weight for branch in branches], 1 if block.groups > 1 else 0).flatten(0, 1)
    y = F.conv2d(x, weight, None, 1, block.padding, 1, block.groups)
    if block.groups > 1:
        y = y.unflatten(1, (-1, k)).transpose(1, 2).flatten(1, 2)
    out = batch_norm(y, [branch.bn for branch in branches]).unflatten(1, (k, -1)).sum(1)
    for branch in filter(None, (block.scale_branch, block.skip_branch)):
        out = out + branch(x)
    return out


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
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    (conv, norm), skip = block.scale_branch, block.skip_branch
    weight = conv.weight.flatten()
    scale = norm.weight * (weight.square() * variance + norm.eps).rsqrt() * weight
    of_skip = skip.weight * (variance + skip.eps).rsqrt()
    shift = norm.bias + skip.bias - mean * (scale + of_skip)
    return out + torch.addcmul(per_channel(shift), x, per_channel(scale + of_skip))


WAYS = {
    'merged': merged,
    'covariance, float32': lambda block, x: covariance(block, x, x.dtype),
    'covariance, float64': lambda block, x: covariance(block, x, torch.float64),
    'affine': affine,
}


def check(block: MobileOneBlock, way: Callable, x: Tensor) -> None:
    """In float64 a way gives what the branches give."""
    block = block.double()
    with torch.no_grad():
        torch.testing.assert_close(way(block, x.double()), plain(block, x.double()), rtol=0, atol=1e-8)
    block.float()


def seconds(way: Callable, block: MobileOneBlock, x: Tensor) -> float:
    """Wall time of forward and backward."""
    start = time.perf_counter()
    way(block, x).square().mean().backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--branches', type=int, default=4, help='k (default: %(default)s, as in S0)')
    parser.add_argument('--batch', type=int, default=4, help='default: %(default)s')
    parser.add_argument('--runs', type=int, default=15, help='default: %(default)s')
    args = parser.parse_args()
    table = Table('block', 'plain (ms)', *WAYS, title=f'CPU, {torch.get_num_threads()} threads, torch {torch.__version__}, '
                  f'batch {args.batch}, k = {args.branches}, plain over tried, medians of {args.runs} runs')
    for size, (c_in, c_out, side) in [(1, shape) for shape in POINTWISE] + [(3, shape) for shape in DEPTHWISE]:
        block = MobileOneBlock(c_in, c_out, size, groups=c_in if size > 1 else 1, num_conv_branches=args.branches)
        x = torch.randn(args.batch, c_in, side, side, requires_grad=True)
        ways = {'plain': plain} | {name: way for name, way in WAYS.items()
                                   if name == 'merged' or (name == 'affine') == (size > 1)}
        for way in ways.values():
            check(block, way, x)
        times = {name: [] for name in ways}
        kind = f'{"depthwise" if size > 1 else "pointwise"} {c_in} -> {c_out}, {side}x{side}'
        for i in track(range(args.runs + 2), kind, transient=True):
            for name, way in ways.items():
                elapsed = seconds(way, block, x)
                if i >= 2:  # warm
                    times[name].append(elapsed)
        medians = {name: statistics.median(values) for name, values in times.items()}
        table.add_row(kind, f'{1000 * medians["plain"]:.1f}',
                      *(f'{medians["plain"] / medians[name]:.2f}' if name in ways else '' for name in WAYS))
    Console(width=140).print(table)


if __name__ == '__main__':
    main()
