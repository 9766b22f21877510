"""Test a detector, a segmentor or a classifier: python tools/test.py CONFIG CHECKPOINT_OR_EXPORTED_FILE."""
import argparse

from mobileone_mm.apis.arguments import add_common_arguments
from mobileone_mm.apis.launch import test
from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.utils.errors import errors_in_one_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, or one written by tools/export.py')
    parser.add_argument('--out', help='.pkl file for the predictions; of a segmentor, folder for PNG masks')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='draw predictions into this folder: for a detector below the work dir, for '
                        'others as it is (a segmentor in vis_data/vis_image), as in mm')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds between images of --show')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_common_arguments(parser)
    args = parser.parse_args()
    with errors_in_one_line():
        test(prepare_test(**vars(args)))


if __name__ == '__main__':
    main()
