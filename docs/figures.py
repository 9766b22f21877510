"""All pictures of README and the documentation: python docs/figures.py, or with the NAMEs of some.

They are drawn from results that other commands left on disk; where one is missing, the error names its command.
"""
import argparse
from pathlib import Path

from figures import block, charts, demos

from mobileone_mm.utils.errors import ArgumentError, errors_in_one_line
from mobileone_mm.utils.files import atomic_file

PICTURES = {
    'block.svg': lambda args: block.draw(),
    'predictions.jpg': lambda args: demos.predictions(args.demos),
    'curves.png': lambda args: demos.curves(args.demos),
    'latency.png': lambda args: charts.latency(args.results),
    'formats.png': lambda args: charts.formats(args.results),
    'training.png': lambda args: charts.training(args.results),
}


def main() -> None:
    files = {Path(file).stem: file for file in PICTURES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help=f'some of: {", ".join(files)} (default: all)')
    parser.add_argument('--results', type=Path, default=Path('work_dirs/figures'),
                        help='folder of the measurements (default: %(default)s)')
    parser.add_argument('--demos', type=Path, default=Path('work_dirs'),
                        help='folder that has demo and demo-seg (default: %(default)s)')
    parser.add_argument('--out-dir', type=Path, default=Path('docs/images'),
                        help='folder for the pictures (default: %(default)s)')
    args = parser.parse_args()
    with errors_in_one_line():
        for name in args.names:
            if name not in files:
                raise ArgumentError(f'There is no picture {name!r}. There are {", ".join(files)}.')
        for name in args.names or files:
            content = PICTURES[files[name]](args)
            with atomic_file(args.out_dir / files[name]) as file:
                file.write(content)
            print(f'Wrote {args.out_dir / files[name]}, {len(content) / 1000:.0f} kB')


if __name__ == '__main__':
    main()
