"""Blocks with live norms, forward and backward: python benchmarks/live_norms.py

Each kind of S0's blocks (or of another --arch): its branches as they are called in the plain layout
and in channels_last, and the way that the block takes by itself there (mobileone_mm/live_norms.py). Writes
live_norms.csv, .json and .png.
"""
from copy import deepcopy
from functools import partial

import torch
from harness import finish, parse, timed
from torch import Tensor, nn

from mobileone_mm import ARCHS, MobileOne, MobileOneBlock


def blocks(arch: str, size: int) -> dict[MobileOneBlock, tuple[int, int, int]]:
    """One block of each kind, with the shape (C, H, W) of its input."""
    model, shapes, kinds = MobileOne(arch).eval(), {}, {}

    def see(block: MobileOneBlock, inputs: tuple[Tensor]) -> None:
        shapes[block] = tuple(inputs[0].shape[1:])

    hooks = [block.register_forward_pre_hook(see) for block in model.modules() if isinstance(block, MobileOneBlock)]
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    for block, shape in shapes.items():
        kinds.setdefault((block.kernel_size, block.stride, block.out_channels, shape), block)
    return {block: shapes[block] for block in kinds.values()}


def step(block: MobileOneBlock, x: Tensor) -> None:
    """Forward and backward."""
    block(x).square().mean().backward()


def main() -> None:
    def add_options(parser):
        parser.add_argument('--arch', default='s0', choices=ARCHS)
        parser.add_argument('--batch', type=int, default=4, help='default: %(default)s')
        parser.add_argument('--size', type=int, default=320, help="of the network's input (default: %(default)s)")

    args = parse(__doc__, 15, add_options)
    rows = []
    for block, shape in blocks(args.arch, args.size).items():
        called = deepcopy(block).train()
        called.fast_train = False
        for norm in called.norms():
            nn.init.normal_(norm.weight, 1, 0.3)
        by_itself = deepcopy(called)
        by_itself.fast_train = True
        x = torch.randn(args.batch, *shape)
        in_channels_last = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        kind = 'pointwise' if block.kernel_size == 1 else 'depthwise' if block.groups > 1 else 'dense'
        rows += timed(
            dict(block=f'{kind} {shape[0]} -> {block.out_channels}, {shape[1]}x{shape[2]}, stride {block.stride}'), {
                'branches, plain layout': partial(step, called, x.requires_grad_()),
                'branches, channels_last': partial(step, called, in_channels_last),
                'by itself, channels_last': partial(step, by_itself, in_channels_last)}, args.rounds)
    finish('live_norms', rows, args)


if __name__ == '__main__':
    main()
