"""Rewrite a MobileOne checkpoint of Apple, timm or mmpretrain in mobileone_mm's layout: SRC OUT."""
import argparse

from mobileone_mm import ARCHS
from mobileone_mm.apis.convert import convert_checkpoint
from mobileone_mm.utils.errors import errors_in_one_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', metavar='SRC', help='checkpoint to read, fused or not; also of a whole model')
    parser.add_argument('out', metavar='OUT', help='checkpoint to write')
    parser.add_argument('--arch', choices=ARCHS, help='what SRC is expected to be (default: found by keys and shapes)')
    parser.add_argument('--trust', action='store_true', help='unpickle anything in SRC, which may run code from it')
    args = parser.parse_args()
    with errors_in_one_line():
        result = convert_checkpoint(args.source, args.out, args.arch, args.trust)
    print(f'Wrote {args.out}: MobileOne {result["arch"]!r}, {result["form"]} form.')
    if result['left_out']:
        print('Left out, not the backbone\'s:', *result['left_out'], sep='\n  ')


if __name__ == '__main__':
    main()
