"""Heads at equal minutes, on drawn shapes: python benchmarks/heads.py --minutes 3 --out-dir work_dirs/demo-heads

RTMDet and LR-ASPP on MobileOne-S0, beside SSDLite and DeepLabV3 on it and the peers on MobileNetV2 and MobileNetV3, all
from scratch, each trained for as many iterations as fit into the minutes on this machine, by the time of one; the
minutes of the table also have start-up and the validation. DeepLabV3 has the smaller head of its config for the
shapes, and LR-ASPP on MobileNetV3 output stride 8, as in mmseg; ours have 16. Then all are timed in one interleaved
run, one image at a time, in torch (deploy form), ONNX Runtime and MNN. Writes heads.csv, .json and .png.
"""
import argparse
import math
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.registry import DATASETS, DefaultScope
from rich.console import Console
from rich.table import Table
from training import ROOT, schedule, train

from mobileone_mm.benchmark.contenders import from_config
from mobileone_mm.benchmark.measure import count
from mobileone_mm.benchmark.model_card import logged_values
from mobileone_mm.benchmark.report import headline, label_log_axis, label_points, style_panel, write_rows
from mobileone_mm.benchmark.session import Session
from mobileone_mm.benchmark.timing import TimedCall, check_least, measure, settled_ms
from mobileone_mm.datasets.check import check_data
from mobileone_mm.deploy.export import example_image, export
from mobileone_mm.deploy.runtimes import for_torch
from mobileone_mm.deploy.wrappers import make_deployable
from mobileone_mm.engine.config import config_from_file, read_config
from mobileone_mm.engine.trained import load_trained
from mobileone_mm.utils.errors import errors_in_one_line
from mobileone_mm.utils.machine import cpu_name
from mobileone_mm.utils.worker import Worker

DETECTION, SEGMENTATION = ROOT / 'configs' / 'detection', ROOT / 'configs' / 'segmentation'
PEERS = Path(__file__).with_name('heads')
MODELS = {
    'RTMDet, MobileOne-S0': DETECTION / 'rtmdet_mobileone_s0_shapes.py',
    'SSDLite, MobileOne-S0': PEERS / 'ssdlite_mobileone_s0.py',
    'SSDLite, MobileNetV2': PEERS / 'ssdlite_mobilenetv2.py',
    'LR-ASPP, MobileOne-S0': SEGMENTATION / 'lraspp_mobileone_s0_shapes.py',
    'DeepLabV3, MobileOne-S0': PEERS / 'deeplabv3_mobileone_s0.py',
    'LR-ASPP, MobileNetV3': PEERS / 'lraspp_mobilenetv3.py',
}
METRICS = {'mmdet': {'mAP': ('coco/bbox_mAP', 100), 'mAP50': ('coco/bbox_mAP_50', 100)}, 'mmseg': {'mIoU': ('mIoU', 1)}}
SHOWN = {'mmdet': 'mAP50', 'mmseg': 'mIoU'}
SIZE = (128, 128)
FILES = {'ONNX Runtime': 'onnx', 'MNN': 'mnn'}
WARMUP = 5


def length_within(minutes: float, config: Path, work_dir: Path) -> tuple[int, int]:
    """Epochs, and images of each, that fit, by the time of an iteration in the second of two short epochs."""
    batches, cfg = 20, read_config(config)
    batch = cfg.train_dataloader.batch_size
    train(config, work_dir, **schedule(2, 3), **{
        'train_dataloader.dataset.indices': batches * batch, 'default_hooks.logger.interval': batches // 2,
        'log_processor.window_size': batches // 2, 'default_hooks.checkpoint.interval': 3})
    seconds = logged_values(work_dir, 'time')[batches // 10:]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        images = len(DATASETS.build(cfg.train_dataloader.dataset))
    iterations = 60 * minutes / np.mean(seconds)
    epochs = max(1, math.ceil(iterations * batch / images))
    return epochs, min(images, max(1, round(iterations / epochs)) * batch)


def train_and_count(name: str, config: Path, minutes: float, out_dir: Path, seed: int) -> dict:
    """Train a network into a folder of its own; returns its row, latencies apart."""
    cfg = read_config(config)
    work_dir = out_dir / config.stem
    epochs, images = length_within(minutes, config, out_dir / f'{config.stem}_timing')
    spent = train(config, work_dir, **schedule(epochs, epochs),
                  **{'randomness.seed': seed, 'train_dataloader.dataset.indices': images})
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        deployed = from_config(name, cfg, SIZE).forms['deploy']
    parameters, macs = count(deployed, torch.zeros(1, 3, *SIZE))
    metrics = {title: factor * logged_values(work_dir, metric)[-1]
               for title, (metric, factor) in METRICS[cfg.default_scope].items()}
    return dict(model=name, task=cfg.default_scope, config=config.name, input='x'.join(map(str, (1, 3, *SIZE))),
                epochs=epochs, images=epochs * images, minutes=spent, parameters=parameters, macs=macs, **metrics)


def time_all(rows: list[dict], out_dir: Path, rounds: int) -> None:
    """Add the latencies of all networks on all runtimes, from one interleaved run, to their rows."""
    threads, image = torch.get_num_threads(), example_image(SIZE)
    timed = {}
    with ExitStack() as stack:
        for row in rows:
            config, work_dir = MODELS[row['model']], out_dir / Path(row['config']).stem
            checkpoint = work_dir / f'epoch_{row["epochs"]}.pth'
            cfg = read_config(config)
            deployable = make_deployable(load_trained(cfg, checkpoint)[0], cfg)
            deployable.fix_size(image)
            timed[row['model'], 'torch'] = TimedCall(partial(settled_ms, for_torch(deployable, image)))
            for runtime, name in FILES.items():
                file = work_dir / f'deployed.{name}'
                export(config, checkpoint, file, name, shape=SIZE)
                worker = stack.enter_context(
                    Worker(work_dir / f'{name}.log', Session, file, image.numpy(), threads))
                timed[row['model'], runtime] = TimedCall(partial(worker.call, 'time_ms'))
        measure(list(timed.values()), rounds, WARMUP)
    for row in rows:
        for runtime in ('torch', *FILES):
            row[f'{runtime} ms'] = float(np.median(timed[row['model'], runtime].times_ms))


def print_table(report: dict) -> None:
    """One table for each task, whose metrics differ."""
    console = Console(width=130)
    for task, metrics in METRICS.items():
        table = Table(title=headline(report))
        table.add_column('head, backbone')
        for column in ('images seen', 'minutes', *metrics, 'params (M)', 'MACs (M)',
                       *(f'{runtime} ms' for runtime in ('torch', *FILES))):
            table.add_column(column, justify='right')
        for row in (row for row in report['rows'] if row['task'] == task):
            table.add_row(row['model'], str(row['images']), f'{row["minutes"]:.1f}',
                          *(f'{row[metric]:.1f}' for metric in metrics), f'{row["parameters"] / 1e6:.2f}',
                          f'{row["macs"] / 1e6:.0f}', *(f'{row[f"{runtime} ms"]:.2f}' for runtime in ('torch', *FILES)))
        console.print(table)


def plot(report: dict) -> Figure:
    """The metric of each task over the latency in ONNX Runtime."""
    figure = Figure(figsize=(13, 4.5), dpi=110, layout='constrained')
    figure.suptitle(f'Drawn shapes, trained from scratch for {report["settings"]["minutes"]:g} minutes each; '
                    f'{headline(report)}', fontsize=9, wrap=True)
    for axes, (task, metric) in zip(figure.subplots(1, 2), SHOWN.items(), strict=True):
        points = [(row['model'], row['ONNX Runtime ms'], row[metric]) for row in report['rows'] if row['task'] == task]
        colors = ['#1f5f8b' if 'MobileOne' in name else '#d9822b' for name, _, _ in points]
        axes.scatter([x for _, x, _ in points], [y for _, _, y in points], color=colors, zorder=2)
        axes.set(xlabel='ms in ONNX Runtime, median', ylabel=f'{metric} (%)', xscale='log')
        label_log_axis(axes.xaxis)
        style_panel(axes, margin=0.15)
        label_points(axes, points)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/demo-heads'), help='default: %(default)s')
    parser.add_argument('--minutes', type=float, default=3, help='of training, for each (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--rounds', type=int, default=50, help='measured rounds (default: %(default)s)')
    args = parser.parse_args()
    if args.out_dir.exists() and any(args.out_dir.iterdir()):
        sys.exit(f'Error: {str(args.out_dir)!r} is not empty. Remove it, or name another with --out-dir.')
    with errors_in_one_line():
        check_least(1, rounds=args.rounds)
        for config in MODELS.values():
            check_data(config_from_file(config), ('train', 'val'))
    try:
        rows = [train_and_count(name, config, args.minutes, args.out_dir, args.seed)
                for name, config in MODELS.items()]
    except subprocess.CalledProcessError as error:  # which has printed the reason
        sys.exit(error.returncode)
    with errors_in_one_line():
        time_all(rows, args.out_dir, args.rounds)
    settings = dict(cpu=cpu_name(), device='cpu', threads=torch.get_num_threads(), batch=1, rounds=args.rounds,
                    warmup=WARMUP, minutes=args.minutes, seed=args.seed)
    for row in rows:  # of the CSV, which has the columns of its first row
        row |= {metric: row.get(metric) for metrics in METRICS.values() for metric in metrics}
    report = dict(settings=settings, versions={'torch': torch.__version__}, rows=rows)
    print_table(report)
    print('Wrote', *write_rows(report, plot(report), args.out_dir, 'heads'))


if __name__ == '__main__':
    main()
