"""Write a trained model for a runtime: ONNX Runtime, OpenVINO, Core ML, and others (--format)."""
import argparse

from mobileone_mm.apis.arguments import add_cfg_options
from mobileone_mm.deploy.export import export
from mobileone_mm.deploy.formats import FORMATS
from mobileone_mm.deploy.reader import describe_sizes
from mobileone_mm.utils.errors import errors_in_one_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', metavar='CONFIG', help='config that it was trained with')
    parser.add_argument('checkpoint', metavar='CKPT', help='its checkpoint')
    parser.add_argument('--format', choices=FORMATS, help='default: by the end of --out')
    parser.add_argument('--out', required=True, help='file to write; ends in '
                        + ', '.join(f'{each.suffix} ({name})' for name, each in FORMATS.items()))
    parser.add_argument('--shape', nargs=2, type=int, metavar=('H', 'W'),
                        help='size of the input (default: the config\'s)')
    parser.add_argument('--batch', type=int, default=1, help='images at once (default: %(default)s)')
    parser.add_argument('--dynamic', action='store_true', help='leave height and width free, and the '
                        'batch where the format can')
    parser.add_argument('--fp16', action='store_true', help='half precision inside')
    parser.add_argument('--int8', metavar='CALIB_DIR', help='quantize to int8, scaled to the images of this folder')
    parser.add_argument('--nms', action='store_true', help='detectors: put NMS into the graph')
    parser.add_argument('--argmax', action='store_true', help='segmentors: classes instead of logits')
    parser.add_argument('--backend', choices=[name for each in FORMATS.values() for name in each.backends],
                        help='of executorch: what the file is for (default: xnnpack; others are not executed here)')
    add_cfg_options(parser)
    parser.add_argument('--trust', action='store_true', help='unpickle anything in CKPT, which may run code from it')
    args = parser.parse_args()
    with errors_in_one_line():
        result = export(args.config, args.checkpoint, args.out, args.format, shape=args.shape, batch=args.batch,
                        dynamic=args.dynamic, half=args.fp16, nms=args.nms, argmax=args.argmax, calibration=args.int8,
                        backend=args.backend, cfg_options=args.cfg_options, trust=args.trust)
    print(f'Wrote {args.out}: {result["bytes"] / 2**20:.1f} MiB.')
    print(f'Takes {result["input"]}: {tuple(size or "free" for size in result["shape"])}.')
    if sizes := result.get('sizes'):
        print(f'Free sizes are those {describe_sizes(sizes)}.')
    for name, meaning in result['outputs'].items():
        print(f'Gives {name}: {meaning}.')
    print(f'Compared with PyTorch on one image: {result["agreement"]}.' if result['agreement'] else
          'It was not executed: there is no runtime for it on this system.')


if __name__ == '__main__':
    main()
