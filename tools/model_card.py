"""Write the tables of models in README.md, the metafile.yml beside the configs, and model-index.yml.

Parameters, MACs and latencies are counted and measured now; results and checksums come from --log
and --checkpoint, and stay until others are given. So do latencies under --no-latency.
"""
import argparse
from pathlib import Path

from mobileone_mm.benchmark.model_card import first_differences, make_card, write_card
from mobileone_mm.utils.errors import ModelCardError, errors_in_one_line

ROOT = Path(__file__).resolve().parents[1]


def pair(text: str) -> list[str]:
    """CONFIG=PATH."""
    config, equals, path = text.partition('=')
    if not equals:
        raise argparse.ArgumentTypeError(f'expected CONFIG=PATH, got {text!r}')
    return [config, path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='what to count and measure, by path or name '
                        '(default: all but those of the drawn shapes); the others stay as they are')
    parser.add_argument('--checkpoint', nargs='+', type=pair, default=[], metavar='CONFIG=FILE',
                        help='trained checkpoints')
    parser.add_argument('--log', nargs='+', type=pair, default=[], metavar='CONFIG=PATH',
                        help='work dirs, or scalars.json in them, whose best metric is the result')
    parser.add_argument('--rounds', type=int, default=50, help='measured rounds of the latency (default: %(default)s)')
    parser.add_argument('--no-latency', action='store_true', help='measure none: those in the metafiles stay')
    parser.add_argument('--check', action='store_true', help='write and measure nothing; fail if a file would change')
    args = parser.parse_args()
    rounds = None if args.no_latency or args.check else args.rounds
    with errors_in_one_line():
        texts = make_card(ROOT, args.configs, dict(args.checkpoint), dict(args.log), rounds)
        if not args.check:
            print('Wrote', *write_card(texts) or ['nothing: all is as it was'])
        elif differences := first_differences(texts):
            raise ModelCardError(f'{"; ".join(differences)}. Run tools/model_card.py.')


if __name__ == '__main__':
    main()
