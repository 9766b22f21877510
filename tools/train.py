"""Train a detector, a segmentor or a classifier: python tools/train.py CONFIG."""
import argparse

from mobileone_mm.apis.arguments import add_common_arguments
from mobileone_mm.apis.launch import train
from mobileone_mm.apis.train_options import prepare_train
from mobileone_mm.utils.errors import errors_in_one_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help="scale the LR by the batch size over the config's auto_scale_lr.base_batch_size")
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from this checkpoint, or without one from the latest in the work dir')
    add_common_arguments(parser)
    args = parser.parse_args()
    with errors_in_one_line():
        train(prepare_train(**vars(args)))


if __name__ == '__main__':
    main()
