"""The time of the eval form over the deploy form, and the share of the check that kernels are fresh.

Interleaved runs, medians, on the CPU: python benchmarks/eval_form.py --arch s0 s2 s4
"""
import argparse
import statistics

import torch
from interleaved import seconds
from rich.progress import track

from mobileone_mm import ARCHS, MobileOne, reparameterize_model


@torch.inference_mode()
def measure(arch: str, x: torch.Tensor, runs: int) -> tuple[float, float]:
    """Median time of the eval form, and of its check alone, over that of the deploy form."""
    model = MobileOne(arch).eval()
    deployed = reparameterize_model(model)
    ratios, shares = [], []
    for i in track(range(runs + 5), arch):
        in_eval_form, in_deploy_form = seconds(lambda: model(x)), seconds(lambda: deployed(x))
        if i >= 5:  # warm
            ratios.append(in_eval_form / in_deploy_form)
            shares.append(seconds(model.verify_kernels) / in_deploy_form)
    return statistics.median(ratios), statistics.median(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', nargs='+', default=['s0', 's2', 's4'], choices=ARCHS)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--size', type=int, default=320)
    parser.add_argument('--runs', type=int, default=60)
    args = parser.parse_args()
    print(f'{torch.get_num_threads()} threads, batch {args.batch}, {args.size}x{args.size}, {args.runs} runs')
    for arch in args.arch:
        ratio, share = measure(arch, torch.randn(args.batch, 3, args.size, args.size), args.runs)
        print(f'{arch}: eval form / deploy form {ratio:.3f}, of that the check for freshness {share:.3f}')


if __name__ == '__main__':
    main()
