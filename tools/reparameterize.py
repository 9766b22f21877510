"""Write the deploy form of a trained detector, segmentor or classifier: CONFIG CKPT OUT."""
import argparse

from mobileone_mm.apis.convert import deploy_checkpoint
from mobileone_mm.utils.errors import errors_in_one_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', metavar='CONFIG', help='config that it was trained with')
    parser.add_argument('source', metavar='CKPT', help='its checkpoint')
    parser.add_argument('out', metavar='OUT', help='checkpoint to write; tools/test.py CONFIG OUT runs on it')
    parser.add_argument('--trust', action='store_true', help='unpickle anything in CKPT, which may run code from it')
    args = parser.parse_args()
    with errors_in_one_line():
        result = deploy_checkpoint(args.config, args.source, args.out, args.trust)
    trained, deployed = result['parameters']
    print(f'Wrote {args.out}: {trained:,} parameters in the train form, {deployed:,} in the deploy form.')


if __name__ == '__main__':
    main()
