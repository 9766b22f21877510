"""Gain by pretraining, on drawn shapes: python benchmarks/pretraining.py --out-dir work_dirs/demo-pretrain

MobileOne-S2 learns to classify single shapes, by the whole pretraining recipe in small. The
detector that starts from it is compared with two from scratch: one for as many epochs, and one for
more epochs, which take about the time of pretraining in addition.
"""
import argparse
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from training import ROOT, schedule, train

from mobileone_mm.benchmark.model_card import logged_values
from mobileone_mm.benchmark.report import write_rows
from mobileone_mm.datasets.check import check_data
from mobileone_mm.engine.config import config_from_file
from mobileone_mm.utils.errors import errors_in_one_line

CLASSIFIER = ROOT / 'configs' / 'pretraining' / 'mobileone_s2_shapes.py'
DETECTOR = ROOT / 'configs' / 'detection' / 'ssdlite_mobileone_s2_shapes.py'
NUM_IMAGES = 750  # of 2400 to train a detector on, so that all takes ten minutes on two cores
METRICS = {'mAP': 'coco/bbox_mAP', 'mAP50': 'coco/bbox_mAP_50'}


def train_detector(work_dir: Path, epochs: int, **options) -> dict:
    """Train the detector, and validate after each epoch; returns minutes and metrics by epoch."""
    minutes = train(DETECTOR, work_dir, **{'train_dataloader.dataset.indices': NUM_IMAGES}, **schedule(epochs, 1),
                    **options)
    return dict(minutes=minutes, epochs=epochs) | {
        name: [100 * value for value in logged_values(work_dir, metric)] for name, metric in METRICS.items()}


def compare(out_dir: Path, epochs: int, more_epochs: int, seed: int) -> list[dict]:
    """Train all, into folders of ``out_dir``; returns a row for each detector."""
    common = {'randomness.seed': seed}
    pretraining = train(CLASSIFIER, out_dir / 'pretraining', **common)
    checkpoint, = (out_dir / 'pretraining').glob('best_*.pth')
    accuracy = max(logged_values(out_dir / 'pretraining', 'accuracy/top1'))
    pretrained = train_detector(out_dir / 'pretrained', epochs, **common, **{
        'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': checkpoint})
    rows = [dict(start=f'pretrained ({accuracy:.0f} % top-1)', pretraining_minutes=pretraining, seed=seed,
                 **pretrained)]
    for name, its_epochs in (('scratch', epochs), ('scratch_longer', epochs + more_epochs)):
        rows.append(dict(start='from scratch', pretraining_minutes=0., seed=seed,
                         **train_detector(out_dir / name, its_epochs, **common)))
    return rows


def print_table(rows: list[dict]) -> None:
    """The last validation of each detector."""
    table = Table('detector starts', 'seed', 'pretraining (min)', 'epochs', 'training (min)', 'all (min)', *METRICS,
                  title='SSDLite-MobileOne-S2 on 100 drawn images, after its last epoch')
    for row in rows:
        minutes = (row['pretraining_minutes'], row['minutes'], row['pretraining_minutes'] + row['minutes'])
        first, *others = (f'{value:.1f}' for value in minutes)
        table.add_row(row['start'], str(row['seed']), first, str(row['epochs']), *others,
                      *(f'{row[name][-1]:.1f}' for name in METRICS))
    Console(width=120).print(table)


def plot(rows: list[dict]) -> Figure:
    """mAP50 over the time spent, pretraining included."""
    figure = Figure(figsize=(6, 5), dpi=120, layout='constrained')
    axes = figure.subplots()
    for row in rows:
        is_longer = row['epochs'] > rows[0]['epochs']
        colour = '#1f5f8b' if row['pretraining_minutes'] else '#b8860b' if is_longer else '#b8b8b8'
        minutes = [row['pretraining_minutes'] + row['minutes'] * (i + 1) / row['epochs'] for i in range(row['epochs'])]
        axes.plot(minutes, row['mAP50'], marker='o', color=colour,
                  label=f'{row["start"]}, {row["epochs"]} epochs, seed {row["seed"]}')
    axes.set(xlabel='minutes, pretraining included', ylabel='mAP50 (%)', xlim=(0, None), ylim=(0, None))
    figure.legend(loc='outside lower center')
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/demo-pretrain'), help='default: %(default)s')
    parser.add_argument('--epochs', type=int, default=2, help='of a detector (default: %(default)s)')
    parser.add_argument('--more-epochs', type=int, default=2,
                        help='additional epochs of the last one (default: %(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], help='one comparison for each (default: 0)')
    args = parser.parse_args()
    if args.out_dir.exists() and any(args.out_dir.iterdir()):
        sys.exit(f'Error: {str(args.out_dir)!r} is not empty. Remove it, or name another with --out-dir.')
    with errors_in_one_line():
        for config in (CLASSIFIER, DETECTOR):
            check_data(config_from_file(config), ('train', 'val'))
    rows = []
    for seed in args.seeds:
        try:
            rows += compare(args.out_dir / f'seed{seed}', args.epochs, args.more_epochs, seed)
        except subprocess.CalledProcessError as error:  # which has printed the reason
            sys.exit(error.returncode)
    print_table(rows)
    print('Wrote', *write_rows(dict(rows=rows), plot(rows), args.out_dir, 'comparison'))


if __name__ == '__main__':
    main()
