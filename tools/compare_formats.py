"""All formats of a trained model in one table: size, difference to PyTorch, metric on the test set, latency.

Each is exported as tools/export.py does, and tested as tools/test.py does. Timed is the runtime's call on one image in
the size of the file's input: reading and resizing an image is not in it, nor is NMS. What is not installed, or fails,
is a row with its reason. Writes formats.md, .csv, .json and .png into --out-dir, and the exported files into its folder
files.
"""
import argparse

from mobileone_mm.apis.arguments import add_cfg_options
from mobileone_mm.benchmark.formats import compare_formats
from mobileone_mm.benchmark.formats_report import print_formats, write_formats
from mobileone_mm.deploy.formats import FORMATS
from mobileone_mm.utils.errors import errors_in_one_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG', help='config that it was trained with')
    parser.add_argument('checkpoint', metavar='CKPT', help='its checkpoint')
    parser.add_argument('--formats', nargs='+', choices=FORMATS, default=list(FORMATS), help='default: all')
    parser.add_argument('--int8', metavar='CALIB_DIR', help='formats that have int8 in int8 too, scaled to the images '
                        'of this folder')
    parser.add_argument('--images', type=int, metavar='N', help='test on the first N images (default: on all)')
    parser.add_argument('--shape', nargs=2, type=int, metavar=('H', 'W'),
                        help="size of the files' input (default: the config's)")
    parser.add_argument('--threads', type=int, help="threads of each runtime (default: torch's)")
    parser.add_argument('--rounds', type=int, default=50, help='measured rounds (default: %(default)s)')
    parser.add_argument('--warmup', type=int, default=5, help='rounds before these (default: %(default)s)')
    parser.add_argument('--out-dir', default='work_dirs/formats',
                        help='folder for the results (default: %(default)s)')
    add_cfg_options(parser)
    parser.add_argument('--trust', action='store_true', help='unpickle anything in CKPT, which may run code from it')
    args = parser.parse_args()
    with errors_in_one_line():
        report = compare_formats(args.config, args.checkpoint, args.formats, args.int8, images=args.images,
                                 shape=args.shape, threads=args.threads, rounds=args.rounds, warmup=args.warmup,
                                 out_dir=args.out_dir, cfg_options=args.cfg_options, trust=args.trust)
        print_formats(report)
        paths = write_formats(report, args.out_dir)
    print('Wrote', *paths)


if __name__ == '__main__':
    main()
