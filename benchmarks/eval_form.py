"""What the eval form costs over the deploy form, and how much of it is knowing that its kernels are fresh.

Interleaved runs, medians, on the CPU: python benchmarks/eval_form.py --arch s0 s2 s4
"""
import argparse
import statistics
import time

import torch
from rich.progress import track

from mobileone_mm import ARCHS, MobileOne, reparameterize_model


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', nargs='+', default=['s0', 's2', 's4'], choices=ARCHS)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--size', type=int, default=320)
    parser.add_argument('--runs', type=int, default=60)
    args = parser.parse_args()
    print(f'{torch.get_num_threads()} threads, batch {args.batch}, {args.size}x{args.size}, {args.runs} runs')
    for arch in args.arch:
        model = MobileOne(arch).eval()
        deployed = reparameterize_model(model)
        x = torch.randn(args.batch, 3, args.size, args.size)
        ratios, shares = [], []
        with torch.inference_mode():
            for _ in range(5):
                model(x), deployed(x)
            for _ in track(range(args.runs), arch):
                in_eval_form, in_deploy_form = seconds(lambda: model(x)), seconds(lambda: deployed(x))
                ratios.append(in_eval_form / in_deploy_form)
                shares.append(seconds(model.verify_kernels) / in_deploy_form)
        print(f'{arch}: eval form / deploy form {statistics.median(ratios):.3f}, of that the check for freshness '
              f'{statistics.median(shares):.3f}')


if __name__ == '__main__':
    main()
