"""The metric and latency of a trained detector or segmentor in int8: CONFIG CKPT CALIB_DIR.

Files for ONNX Runtime in float32, in half precision, and in int8 with one scale per kernel and with
one scale per channel. Each is tested on the config's test data, and timed in interleaved runs.
"""
import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from interleaved import median_seconds
from rich.console import Console
from rich.table import Table

from mobileone_mm.apis.launch import build_runner
from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.deploy.export import example_image, export
from mobileone_mm.deploy.reader import ExportedFile


def metrics(config: str, file: Path) -> dict[str, float]:
    """The metrics of ``tools/test.py``."""
    return build_runner(prepare_test(config, file, work_dir=str(file.parent / 'test'))).test()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', metavar='CONFIG')
    parser.add_argument('checkpoint', metavar='CKPT')
    parser.add_argument('calibration', metavar='CALIB_DIR', help='folder of images to choose the scales of int8')
    parser.add_argument('--threads', type=int, help="default: ONNX Runtime's choice")
    parser.add_argument('--runs', type=int, default=50)
    args = parser.parse_args()
    int8 = dict(calibration=args.calibration)
    variants = {'float32': {}, 'fp16': dict(half=True), 'int8, per tensor': int8 | dict(per_channel=False),
                'int8, per channel': int8}
    results, files, sizes = {}, {}, {}
    with TemporaryDirectory() as folder:
        for name, options in variants.items():
            out = Path(folder, f'{name}.onnx')
            sizes[name] = export(args.config, args.checkpoint, out, 'onnx', **options)['bytes']
            results[name] = metrics(args.config, out)
            files[name] = ExportedFile(out, args.threads)
        image = example_image(tuple(files['float32'].meta['shape'][2:])).numpy()
        seconds = median_seconds({name: partial(file, image) for name, file in files.items()}, args.runs,
                                 'Measuring', 3)
    names = [name for name in ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'mIoU', 'mAcc') if name in results['float32']]
    table = Table('file', *names, 'latency over float32', 'ms', 'MiB')
    for name in variants:
        numbers = (seconds[name] / seconds['float32'], 1000 * seconds[name], sizes[name] / 2**20)
        table.add_row(name, *(f'{results[name][metric]:.3f}' for metric in names),
                      *(f'{number:.2f}' for number in numbers))
    Console(width=120).print(table)


if __name__ == '__main__':
    main()
