"""The metric and latency of a trained detector or segmentor in int8: CONFIG CKPT CALIB_DIR.

Files for ONNX Runtime in float32, in half precision, and in int8 with one scale per kernel and with
one scale per channel. Each is tested on the config's test data, and timed. Writes int8.csv, .json and .png.
"""
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from harness import finish, parse, timed

from mobileone_mm.apis.launch import build_runner
from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.deploy.export import example_image, export
from mobileone_mm.deploy.reader import ExportedFile


def metrics(config: str, file: Path) -> dict[str, float]:
    """The metrics of ``tools/test.py``."""
    return build_runner(prepare_test(config, file, work_dir=str(file.parent / 'test'))).test()


def main() -> None:
    def add_options(parser):
        parser.add_argument('config', metavar='CONFIG')
        parser.add_argument('checkpoint', metavar='CKPT')
        parser.add_argument('calibration', metavar='CALIB_DIR', help='folder of images to choose the scales of int8')
        parser.add_argument('--threads', type=int, help="default: ONNX Runtime's choice")

    args = parse(__doc__, 50, add_options)
    int8 = dict(calibration=args.calibration)
    variants = {'float32': {}, 'fp16': dict(half=True), 'int8, per tensor': int8 | dict(per_channel=False),
                'int8, per channel': int8}
    results, files, sizes = {}, {}, {}
    with TemporaryDirectory() as folder:
        for name, options in variants.items():
            out = Path(folder, f'{name}.onnx')
            sizes[name] = export(args.config, args.checkpoint, out, 'onnx', **options)['bytes'] / 2**20
            results[name] = metrics(args.config, out)
            files[name] = ExportedFile(out, args.threads)
        image = example_image(tuple(files['float32'].meta['shape'][2:])).numpy()
        rows = timed(dict(config=Path(args.config).stem), {name: partial(file, image) for name, file in files.items()},
                     args.rounds)
    names = [name for name in ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'mIoU', 'mAcc') if name in results['float32']]
    finish('int8', [row | {name: results[row['way']][name] for name in names} | dict(MiB=sizes[row['way']])
                    for row in rows], args)


if __name__ == '__main__':
    main()
