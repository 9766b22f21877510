"""Draw and write the predictions of a detector, a segmentor or a classifier on an image or a folder of images."""
import argparse
import sys

from mobileone_mm.apis.arguments import add_cfg_options
from mobileone_mm.apis.predict import predict
from mobileone_mm.utils.errors import errors_in_one_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('inputs', metavar='IMAGE_OR_FOLDER', help='image, or folder of images')
    parser.add_argument('config', metavar='CONFIG', help='config that the model was trained with')
    parser.add_argument('checkpoint', metavar='CKPT', help='its checkpoint, or a file written by tools/export.py')
    parser.add_argument('--out-dir', required=True, help='folder for images (vis) and predictions (preds)')
    parser.add_argument('--score-thr', type=float, default=0.3,
                        help='detectors: least score of a box (default: %(default)s)')
    parser.add_argument('--device', help='e.g. cpu or cuda:0 (default: a GPU if there is one)')
    parser.add_argument('--shape', nargs=2, type=int, metavar=('H', 'W'),
                        help="size to resize images to, without a crop (default: as the config's test pipeline does)")
    add_cfg_options(parser)
    parser.add_argument('--trust', action='store_true', help='unpickle anything in CKPT, which may run code from it')
    args = parser.parse_args()
    with errors_in_one_line():
        result = predict(args.inputs, args.config, args.checkpoint, args.out_dir, args.score_thr, args.device,
                         args.cfg_options, args.trust, args.shape)
    print(f'{result["files"]} images: drawn in {args.out_dir}/vis, predictions in {args.out_dir}/preds.')
    if failed := result['failed']:
        sys.exit('\n  '.join([f'Error: {len(failed)} of {result["files"] + len(failed)} images have no prediction:',
                              *(f'{file}: {reason}' for file, reason in failed.items())]))


if __name__ == '__main__':
    main()
