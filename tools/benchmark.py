"""How fast is MobileOne on this machine? Parameters, MACs, latency of all forms, and peers.

Writes benchmark.csv, benchmark.json and benchmark.png into --out-dir; with --bottlenecks, which
measures what activations, skip connections and Squeeze-and-Excitation cost in a plain 30-layer CNN,
bottlenecks.csv, .json and .png.
"""
import argparse

from mobileone_mm import ARCHS
from mobileone_mm.benchmark import bottlenecks, contenders
from mobileone_mm.benchmark.measure import LAYOUTS, benchmark, correlate
from mobileone_mm.benchmark.report import print_report, write_report
from mobileone_mm.deploy.runtimes import RUNTIMES
from mobileone_mm.utils.errors import ArgumentError, errors_in_one_line
from mobileone_mm.utils.files import make_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', metavar='CONFIG',
                        help='detectors and segmentors, up to their raw outputs')
    parser.add_argument('--arch', nargs='+', choices=ARCHS, default=[],
                        help='backbones alone (default: s0 to s4, where no CONFIG is given)')
    parser.add_argument('--peers', action='store_true',
                        help="beside detectors mmdet's SSDLite-MobileNetV2, beside segmentors mmseg's "
                        "DeepLabV3-MobileNetV2, beside backbones mmpretrain's and timm's MobileOne, where installed")
    parser.add_argument('--bottlenecks', action='store_true', help='measure the plain CNNs instead of networks')
    parser.add_argument('--width', type=int, default=64, help='channels of the plain CNNs (default: %(default)s)')
    parser.add_argument('--runtime', nargs='+', choices=RUNTIMES, default=['torch'],
                        help='torch runs every form, the others the deploy form (default: torch)')
    parser.add_argument('--shape', nargs=2, type=int, metavar=('H', 'W'), help='of the input (default: 320 320, for '
                        'segmentors 512 512, for the plain CNNs 56 56)')
    parser.add_argument('--batch', type=int, default=1, help='images in a forward pass (default: %(default)s)')
    parser.add_argument('--threads', type=int, help="threads of each runtime (default: torch's)")
    parser.add_argument('--rounds', type=int, default=50, help='measured rounds (default: %(default)s)')
    parser.add_argument('--warmup', type=int, default=5, help='rounds before these (default: %(default)s)')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu',
                        help="torch's device (default: %(default)s)")
    parser.add_argument('--baseline', metavar='NAME', help='network that ratios refer to (default: the first)')
    parser.add_argument('--out-dir', default='work_dirs/benchmark',
                        help='folder for the results (default: %(default)s)')
    args = parser.parse_args()
    measuring = {key: getattr(args, key) for key in ('batch', 'threads', 'rounds', 'warmup', 'device', 'baseline')}
    with errors_in_one_line():
        if args.bottlenecks:
            if args.configs or args.arch or args.peers:
                raise ArgumentError('--bottlenecks measures plain CNNs. Leave CONFIG, --arch and --peers out.')
            builders = bottlenecks.plan(args.width, tuple(args.shape or (56, 56)))
        else:
            archs = args.arch or ([] if args.configs else ['s0', 's1', 's2', 's3', 's4'])
            builders = contenders.plan(args.configs, archs, args.peers, args.shape)
        make_folder(args.out_dir)  # before the minutes, not after them
        # A ratio of plain CNNs to each other needs one layout, as the paper's.
        report = benchmark(builders, args.runtime, layouts=('plain', ) if args.bottlenecks else LAYOUTS, **measuring)
        if not args.bottlenecks:
            report['correlations'] = correlate(report['rows'])
        print_report(report)
        paths = write_report(report, args.out_dir, 'bottlenecks' if args.bottlenecks else 'benchmark')
    print('Wrote', *paths)


if __name__ == '__main__':
    main()
