"""The tools as users run them: train, validate, resume, test, on drawn and on real images."""
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mobileone_mm.apis.train_options import latest_checkpoint
from mobileone_mm.checkpoint.read import read_checkpoint
from tests.support.detection import SHAPES, metrics, options
from tests.support.paths import ROOT, real_data
from tests.support.runs import python, run, run_distributed, scalars


def state(checkpoint):
    return read_checkpoint(checkpoint)['state_dict']


def test_shapes_end_to_end(shapes_root, tmp_path):
    """S2 on drawn shapes: train, validate, resume, test; test repeats the metrics of validation."""
    work = tmp_path / 'work'
    python('tools/train.py', SHAPES, '--work-dir', work, *options('s2'), SHAPES_ROOT=shapes_root)
    assert {p.name for p in work.glob('*.pth')} >= {'epoch_1.pth', 'epoch_2.pth'}
    assert list(work.glob('*/vis_data/events.out.tfevents*'))
    first = metrics(work)
    resumed = python('tools/train.py', SHAPES, '--work-dir', work, '--resume', *options('s2', 3),
                     SHAPES_ROOT=shapes_root)
    assert 'resumed epoch: 2, iter: 8' in resumed.stdout + resumed.stderr
    assert not (work / 'epoch_4.pth').exists()
    for epoch, expected in ((2, first), (3, metrics(work))):
        out = tmp_path / f'test{epoch}'
        python('tools/test.py', SHAPES, work / f'epoch_{epoch}.pth', '--work-dir', out, '--show-dir', 'images',
               '--out', tmp_path / 'predictions.pkl', *options('s2'), SHAPES_ROOT=shapes_root)
        assert metrics(out) == expected
        assert len(list(out.glob('*/images/*.jpg'))) == 6
    assert (tmp_path / 'predictions.pkl').stat().st_size > 0
    assert 'bbox_mAP' in python('tools/test.py', SHAPES, work / 'epoch_3.pth', '--work-dir', tmp_path / 'tta', '--tta',
                                *options('s2'), SHAPES_ROOT=shapes_root).stdout


@pytest.mark.slow
def test_coco_end_to_end(tmp_path):
    coco, arch = real_data('coco'), 's2'
    config = 'configs/detection/ssdlite_mobileone_s2.py'
    work = tmp_path / 'work'
    few = {'train_dataloader.dataset.indices': 8, 'val_dataloader.dataset.indices': 12,
           'test_dataloader.dataset.indices': 12}
    python('tools/train.py', config, '--work-dir', work, '--auto-scale-lr', *options(arch, 1, **few), COCO_ROOT=coco)
    assert Config.fromfile(next(work.glob('ssdlite*.py'))).auto_scale_lr.enable
    python('tools/train.py', config, '--work-dir', work, '--resume', work / 'epoch_1.pth', *options(arch, 2, **few),
           COCO_ROOT=coco)
    python('tools/test.py', config, work / 'epoch_2.pth', '--work-dir', tmp_path / 'test', *options(arch, **few),
           COCO_ROOT=coco)
    assert metrics(tmp_path / 'test') == metrics(work)


@pytest.mark.slow
def test_validation_does_not_change_training(shapes_root, tmp_path):
    for name, interval in (('validates', 1), ('does_not', 100)):
        python('tools/train.py', SHAPES, '--work-dir', tmp_path / name,
               *options(**{'train_cfg.val_interval': interval, 'train_dataloader.num_workers': 1}),
               SHAPES_ROOT=shapes_root)
    validated, plain = (state(tmp_path / name / 'epoch_2.pth') for name in ('validates', 'does_not'))
    assert len(scalars(tmp_path / 'validates')) > len(scalars(tmp_path / 'does_not'))
    assert all(torch.equal(value, plain[key]) for key, value in validated.items())


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch(shapes_root, tmp_path):
    """kill -9, then --resume: iteration, LR and optimizer continue from the last checkpoint."""
    work, command = tmp_path / 'work', [sys.executable, 'tools/train.py', SHAPES, '--work-dir', tmp_path / 'work']
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'SHAPES_ROOT': str(shapes_root)}
    process = subprocess.Popen([str(c) for c in command + options('s0', 4)], cwd=ROOT, env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(6000):
            if any(row.get('step', 0) == 10 for row in scalars(work)):
                break  # two iterations into the third of four epochs of four
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    checkpoint = read_checkpoint(work / 'epoch_2.pth')
    assert checkpoint['meta']['iter'] == 8 and not (work / 'epoch_3.pth').exists()
    (work / 'epoch_3.pth').write_bytes((work / 'epoch_2.pth').read_bytes()[:100_000])  # as another program might leave
    (work / 'last_checkpoint').write_text(str(work / 'epoch_3.pth'))
    before = len(scalars(work))
    result = python('tools/train.py', SHAPES, '--work-dir', work, '--resume', *options('s0', 4),
                    SHAPES_ROOT=shapes_root)
    assert 'resumed epoch: 2, iter: 8' in result.stdout + result.stderr
    rows = [row for row in scalars(work)[before:] if 'loss' in row]
    assert [row['step'] for row in rows] == list(range(9, 17))
    uninterrupted = tmp_path / 'uninterrupted'
    python('tools/train.py', SHAPES, '--work-dir', uninterrupted, *options('s0', 4), SHAPES_ROOT=shapes_root)
    expected = [row['lr'] for row in scalars(uninterrupted) if 'loss' in row][8:]
    assert [row['lr'] for row in rows] == expected
    last = read_checkpoint(work / 'epoch_4.pth')
    steps = {int(entry['step']) for entry in last['optimizer']['state'].values()}
    assert steps == {16}


def test_resume_passes_over_what_is_not_whole(tmp_path):
    assert latest_checkpoint(str(tmp_path)) is None
    torch.save({}, tmp_path / 'epoch_10.pth')
    torch.save({}, tmp_path / 'epoch_2.pth')
    torch.save({}, tmp_path / 'epoch_1.pth')
    (tmp_path / 'best_coco_bbox_mAP_epoch_9.pth').write_bytes(b'')
    (tmp_path / 'last_checkpoint').write_text('')
    assert latest_checkpoint(str(tmp_path)).endswith('epoch_10.pth')
    (tmp_path / 'last_checkpoint').write_text('/moved/epoch_1.pth')
    assert latest_checkpoint(str(tmp_path)).endswith('epoch_1.pth')
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK half')
    assert latest_checkpoint(str(tmp_path)).endswith('epoch_10.pth')


@pytest.mark.slow
def test_resume_with_nothing_whole_starts_from_the_beginning(shapes_root, tmp_path):
    (tmp_path / 'epoch_1.pth').write_bytes(b'half')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    python('tools/train.py', SHAPES, '--work-dir', tmp_path, '--resume', *options(epochs=1), SHAPES_ROOT=shapes_root,
           COCO_ROOT='')
    assert latest_checkpoint(str(tmp_path)).endswith('epoch_1.pth')


@pytest.mark.slow
def test_two_processes(shapes_root, tmp_path):
    """Gloo on one machine: trains, validates, saves once, tests."""
    work = tmp_path / 'work'
    result = run_distributed('tools/dist_train.sh', SHAPES, '--work-dir', work, *options(epochs=1),
                             SHAPES_ROOT=shapes_root)
    output = result.stdout + result.stderr
    assert len(re.findall(r'Saving checkpoint at 1 epochs', output)) == 1
    assert [row['step'] for row in scalars(work) if 'loss' in row] == [1, 2]  # 16 images, 4 on each of 2
    run_distributed('tools/dist_test.sh', SHAPES, work / 'epoch_1.pth', '--work-dir', tmp_path / 'test', *options(),
                    SHAPES_ROOT=shapes_root)
    assert metrics(tmp_path / 'test') == metrics(work)


@pytest.mark.ops
def test_under_mmdets_own_tools(shapes_root, tmp_path):
    """From any folder."""
    tools = Path(importlib.util.find_spec('mmdet').origin).parent / '.mim' / 'tools'
    config = ROOT / SHAPES
    python(tools / 'train.py', config, *options(epochs=1), cwd=tmp_path, SHAPES_ROOT=shapes_root)
    work = tmp_path / 'work_dirs' / config.stem
    python(tools / 'train.py', config, '--resume', *options(epochs=2), cwd=tmp_path, SHAPES_ROOT=shapes_root)
    python(tools / 'test.py', config, work / 'epoch_2.pth', '--work-dir', tmp_path / 'test', *options(), cwd=tmp_path,
           SHAPES_ROOT=shapes_root)
    assert metrics(tmp_path / 'test') == metrics(work)


ERRORS = [
    (['tools/train.py', 'configs/nothing.py'], "Config 'configs/nothing.py' does not exist. Ours are below configs."),
    (['tools/train.py', SHAPES, '--resume', 'nothing.pth'], "Checkpoint 'nothing.pth' does not exist"),
    (['tools/test.py', SHAPES, 'nothing.pth'], "Checkpoint 'nothing.pth' does not exist"),
    (['tools/train.py', SHAPES, '--amp'], '--amp needs an accelerator'),
    (['tools/train.py', SHAPES, '--amp', '--cfg-options', 'optim_wrapper.type=Other'],
     "--amp needs optim_wrapper.type"),
    (['tools/train.py', SHAPES, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr={}'], '--auto-scale-lr needs'),
    (['tools/test.py', SHAPES, SHAPES, '--show-dir', 'x', '--cfg-options', 'default_hooks.visualization=None'],
     '--show and --show-dir need default_hooks.visualization'),
    (['tools/train.py', SHAPES, '--cfg-options', 'model.backbone.init_cfg.type=Pretrained',
      'model.backbone.init_cfg.checkpoint=nothing.pth'],
     "Checkpoint 'nothing.pth' does not exist. Check the path. Either"),
    (['tools/test.py', SHAPES, SHAPES], 'is not a PyTorch checkpoint, or is damaged'),
    (['tools/test.py', SHAPES, SHAPES, '--out', 'x.json'], "--out is a .pkl or .pickle file for a detector"),
]


@pytest.mark.parametrize('command, message', ERRORS, ids=lambda v: v[:30] if isinstance(v, str) else None)
def test_errors_are_one_line(shapes_root, tmp_path, command, message):
    result = python(*command, *([] if '--cfg-options' in command else ['--work-dir', tmp_path]), check=False,
                    SHAPES_ROOT=shapes_root)
    assert result.returncode == 1 and message in result.stderr and 'Traceback' not in result.stderr


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_scripts_say_how_to_use_them(script):
    result = run(f'tools/{script}.sh', check=False)
    assert result.returncode == 2 and 'CONFIG' in result.stderr and 'Environment' in result.stderr


def test_slurm_scripts_quote_their_arguments(tmp_path):
    (tmp_path / 'srun').write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n')
    (tmp_path / 'srun').chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    train = run('tools/slurm_train.sh', 'part', 'job', 'a config.py', 'work dir', '--amp', PATH=path, GPUS=16)
    assert '<--ntasks=16>' in train.stdout and '<a config.py>\n<--work-dir>\n<work dir>\n<--launcher>' in train.stdout
    test = run('tools/slurm_test.sh', 'part', 'job', 'config.py', 'a checkpoint.pth', '--tta', PATH=path)
    assert '<a checkpoint.pth>\n<--launcher>\n<slurm>\n<--tta>' in test.stdout
