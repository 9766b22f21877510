"""Trainings of benchmarks, by tools/train.py."""
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def train(config: Path, work_dir: Path, **options) -> float:
    """Train by tools/train.py; returns minutes. Its log goes to the screen."""
    start = time.perf_counter()
    settings = [f'{key}={value}' for key, value in options.items()]
    subprocess.run([sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir', str(work_dir),
                    '--cfg-options', *settings], check=True)
    return (time.perf_counter() - start) / 60


def schedule(epochs: int, interval: int) -> dict[str, int]:
    """Options for so many epochs on the drawn shapes, with a validation every ``interval`` epochs."""
    return {'train_cfg.max_epochs': epochs, 'train_cfg.val_interval': interval, 'param_scheduler.1.T_max': epochs,
            'param_scheduler.1.end': epochs}
