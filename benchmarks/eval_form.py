"""The eval form beside the deploy form, and its check that kernels are fresh: python benchmarks/eval_form.py

Forward passes on the CPU; the check is also timed alone. Writes eval_form.csv, .json and .png.
"""
from functools import partial

import torch
from harness import finish, parse, timed

from mobileone_mm import ARCHS, MobileOne, reparameterize_model


def main() -> None:
    def add_options(parser):
        parser.add_argument('--arch', nargs='+', default=['s0', 's2', 's4'], choices=ARCHS)
        parser.add_argument('--batch', type=int, default=1)
        parser.add_argument('--size', type=int, default=320)

    args = parse(__doc__, 60, add_options)
    rows = []
    for arch in args.arch:
        x = torch.randn(args.batch, 3, args.size, args.size)
        model = MobileOne(arch).eval()
        deployed = reparameterize_model(model)
        with torch.inference_mode():
            rows += timed(dict(arch=arch, batch=args.batch), {
                'deploy form': partial(deployed, x), 'eval form': partial(model, x),
                'check alone': model.verify_kernels}, args.rounds)
    finish('eval_form', rows, args)


if __name__ == '__main__':
    main()
