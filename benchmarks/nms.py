"""Non-maximum suppression of the stand-in for mmcv.ops, beside compiled operators: python benchmarks/nms.py

One thread, IoU 0.5. mmcv's operator is compared where mmcv has it, torchvision's where that is installed. Writes
nms.csv, .json and .png.
"""
from functools import partial

import torch
from harness import finish, parse, timed

from mobileone_mm.compat.mmcv_ops import greedy_nms, has_compiled_ops, torchvision_nms

SPREADS = {'hardly': 10000., 'often': 300., 'nearly all': 30.}  # side of the square where boxes of 5 to 55 lie


def main() -> None:
    args = parse(__doc__, 5, lambda parser: parser.add_argument(
        '--boxes', type=int, nargs='+', default=[100, 1000, 5000, 20000]))
    torch.set_num_threads(1)
    peers = {}
    if has_compiled_ops():
        from mmcv.ops import nms
        peers['mmcv, compiled'] = nms
    if torchvision_nms() is not None:
        peers['torchvision, compiled'] = torchvision_nms()
    if not peers:
        print("Left out: mmcv's and torchvision's operators, which are not installed here.")
    rows, generator = [], torch.Generator().manual_seed(0)
    for count in args.boxes:
        for overlap, side in SPREADS.items():
            corners = torch.rand(count, 2, generator=generator) * side
            boxes = torch.cat((corners, corners + 5 + 50 * torch.rand(count, 2, generator=generator)), 1)
            scores = torch.rand(count, generator=generator)
            ways = peers | {'stand-in': greedy_nms}
            rows += timed(dict(boxes=count, overlap=overlap, kept=len(greedy_nms(boxes, scores, 0.5))), {
                name: partial(function, boxes, scores, 0.5) for name, function in ways.items()}, args.rounds)
    finish('nms', rows, args)


if __name__ == '__main__':
    main()
