"""Resumed in another folder, on other devices, with another batch size: what mmengine restores must still fit."""
import re
import shutil
from itertools import count

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mobileone_mm.apis.train_options import latest_checkpoint
from tests.support import tiny
from tests.support.runs import python, run_distributed, scalars
from tests.support.training import Mean

IMAGES = 16
NUMBERS = count()  # mmengine tells runs that begin in the same second by their names


class Net(BaseModel):
    """The more it is trained, or by the score given, the better."""

    def __init__(self, score=None):
        super().__init__()
        self.weight, self.score = nn.Parameter(torch.ones(1)), score

    def train_step(self, data, optim_wrapper):
        loss = self.weight.sum() * 1e-3
        optim_wrapper.update_params(loss)
        return dict(loss=loss.detach())

    def val_step(self, data):
        return [-self.weight.item() if self.score is None else self.score]

    def forward(self, *args, **kwargs):
        raise NotImplementedError


class Rates(Hook):
    """The LR of each iteration."""

    def __init__(self):
        self.rates = []

    def before_train_iter(self, runner, *args, **kwargs):
        self.rates.append(runner.optim_wrapper.param_groups[0]['lr'])


class Stop(Exception):
    """The end of a run that is to be resumed."""


class StopAfter(Hook):

    priority = 'LOWEST'

    def __init__(self, epoch):
        self.epoch = epoch

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.epoch:
            raise Stop


SCHEDULES = dict(
    cosine=dict(
        type='CosineAnnealingLR', T_max=8, begin=0, end=8, eta_min=0, by_epoch=True, convert_to_iter_based=True),
    poly=dict(type='PolyLR', power=0.9, begin=1, end=8, eta_min=0, by_epoch=True, convert_to_iter_based=True),
    steps=dict(type='MultiStepLR', milestones=[3, 6], by_epoch=True, convert_to_iter_based=True),
    without_end=dict(type='CosineAnnealingLR', by_epoch=False, eta_min=0),
    epochs=dict(type='CosineAnnealingLR', T_max=8, eta_min=0, by_epoch=True),
)


def make(work_dir, batch_size=2, epochs=8, score=None, hooks=(), schedule=None, checkpoint=None, by_iter=False, **cfg):
    def loader(size, sampler):
        return dict(batch_size=size, num_workers=0, dataset=list(range(IMAGES)), collate_fn=dict(type='pseudo_collate'),
                    sampler=dict(type=sampler, shuffle=False))

    saves = dict(type='CheckpointHook', interval=1, max_keep_ckpts=2, save_best='mean', rule='greater')
    if by_iter:
        train_cfg = dict(by_epoch=False, max_iters=12, val_interval=4)
        saves.update(by_epoch=False, interval=4)
    else:
        train_cfg = dict(by_epoch=True, max_epochs=epochs)
    return Runner(
        Net(score), str(work_dir), train_cfg=train_cfg, val_dataloader=loader(2, 'DefaultSampler'),
        train_dataloader=loader(batch_size, 'InfiniteSampler' if by_iter else 'DefaultSampler'),
        val_cfg=dict(), val_evaluator=[Mean()], optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.)),
        param_scheduler=[schedule] if schedule else None,
        default_hooks=dict(checkpoint=saves | (checkpoint or {})), experiment_name=f'{work_dir.name}{next(NUMBERS)}',
        custom_hooks=[*hooks, dict(type='OwnCheckpointsHook'), dict(type='ResumeScheduleHook')], **cfg)


def files(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


# --- whose checkpoints are deleted

@pytest.mark.parametrize('by_iter', [False, True], ids=['epochs', 'iterations'])
def test_in_another_work_dir(by_iter, tmp_path):
    make(tmp_path / 'a', epochs=3, by_iter=by_iter).train()
    before, last = files(tmp_path / 'a'), 'iter_12.pth' if by_iter else 'epoch_3.pth'
    make(tmp_path / 'b', epochs=3, by_iter=by_iter).train()  # files of the same names, which are nobody else's
    own = files(tmp_path / 'b')
    more = dict(checkpoint=dict(max_keep_ckpts=1))
    runner = make(tmp_path / 'b', epochs=4, by_iter=by_iter, load_from=str(tmp_path / 'a' / last), resume=True, **more)
    if by_iter:
        runner.train_loop._max_iters = 16
    runner.train()
    assert files(tmp_path / 'a') == before
    assert set(files(tmp_path / 'b')) >= set(own) - {last}


def test_the_best_of_another_run_stays_the_score_to_beat(tmp_path):
    make(tmp_path / 'a', epochs=2).train()
    common = dict(load_from=str(tmp_path / 'a' / 'epoch_2.pth'), resume=True)
    make(tmp_path / 'worse', epochs=4, score=-100., **common).train()
    assert files(tmp_path / 'worse') == ['epoch_3.pth', 'epoch_4.pth']
    log = next((tmp_path / 'worse').glob('*/*.log')).read_text()
    assert re.search(r"The best checkpoint so far \(-0\.\d+\) is that of another folder, "
                     r"'.*/a/best_mean_epoch_2\.pth'", log)
    make(tmp_path / 'better', epochs=4, score=100., **common).train()
    assert files(tmp_path / 'better') == ['best_mean_epoch_3.pth', 'epoch_3.pth', 'epoch_4.pth']
    assert files(tmp_path / 'a') == ['best_mean_epoch_2.pth', 'epoch_1.pth', 'epoch_2.pth']


def test_in_a_copied_work_dir(tmp_path):
    """The copy's own best checkpoint is the one that makes way, and its own file the one that is resumed."""
    make(tmp_path / 'a', epochs=2).train()
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    before = files(tmp_path / 'a')
    assert latest_checkpoint(tmp_path / 'b') == str(tmp_path / 'b' / 'epoch_2.pth')
    make(tmp_path / 'b', epochs=4, load_from=latest_checkpoint(tmp_path / 'b'), resume=True).train()
    assert files(tmp_path / 'a') == before
    assert files(tmp_path / 'b') == ['best_mean_epoch_4.pth', 'epoch_3.pth', 'epoch_4.pth']


def test_with_several_best_and_a_folder_of_their_own(tmp_path):
    checkpoint = dict(save_best=['mean', 'other'], rule='greater', out_dir=str(tmp_path / 'out'))

    class Two(Mean):

        def compute_metrics(self, results):
            return super().compute_metrics(results) | dict(other=1 + sum(results))

    for name, cfg in (('a', {}), ('b', dict(load_from=str(tmp_path / 'out/a/epoch_2.pth'), resume=True))):
        runner = make(tmp_path / name, epochs=4 if cfg else 2, checkpoint=checkpoint, **cfg)
        runner.val_loop.evaluator.metrics.append(Two())
        runner.val_loop.evaluator.metrics.pop(0)
        runner.train()
    for name, (one, two) in dict(a=(1, 2), b=(3, 4)).items():
        assert files(tmp_path / 'out' / name) == [
            f'best_mean_epoch_{two}.pth', f'best_other_epoch_{two}.pth', f'epoch_{one}.pth', f'epoch_{two}.pth']


def test_in_the_same_work_dir_all_goes_on(tmp_path):
    make(tmp_path / 'a', epochs=2).train()
    make(tmp_path / 'a', epochs=4, load_from=str(tmp_path / 'a/epoch_2.pth'), resume=True).train()
    assert files(tmp_path / 'a') == ['best_mean_epoch_4.pth', 'epoch_3.pth', 'epoch_4.pth']


# --- how schedules go on

@pytest.mark.parametrize('sizes', [(2, 4), (3, 2)], ids=str)
@pytest.mark.parametrize('name', SCHEDULES)
def test_with_another_batch_size(name, sizes, tmp_path):
    """After half of the epochs; from there on, the LR is what it is in a run that began with this batch size."""
    whole, rates = Rates(), Rates()
    make(tmp_path / 'whole', sizes[1], hooks=[whole], schedule=SCHEDULES[name]).train()
    with pytest.raises(Stop):
        make(tmp_path / 'a', sizes[0], hooks=[StopAfter(4)], schedule=SCHEDULES[name]).train()
    runner = make(tmp_path / 'a', sizes[1], hooks=[rates], schedule=SCHEDULES[name], resume=True,
                  load_from=str(tmp_path / 'a/epoch_4.pth'))
    runner.train()
    assert rates.rates == pytest.approx(whole.rates[len(whole.rates) // 2:], rel=2e-2, abs=1e-6)
    assert runner.iter == runner.max_iters == len(whole.rates)
    log = sorted((tmp_path / 'a').glob('*/*.log'))[-1].read_text()
    expected = f'Resumed with {-(-IMAGES // sizes[1])} iterations an epoch, where the checkpoint has ' \
               f'{-(-IMAGES // sizes[0])} ({sizes[0]} images an iteration before, {sizes[1]} now)'
    assert (expected in log) == (sizes[0] != sizes[1])


def test_auto_scale_lr_is_followed(tmp_path):
    whole, rates = Rates(), Rates()
    common = dict(schedule=SCHEDULES['cosine'], auto_scale_lr=dict(enable=True, base_batch_size=2))
    make(tmp_path / 'whole', 4, hooks=[whole], **common).train()
    with pytest.raises(Stop):
        make(tmp_path / 'a', 2, hooks=[StopAfter(4)], **common).train()
    make(tmp_path / 'a', 4, hooks=[rates], resume=True, load_from=str(tmp_path / 'a/epoch_4.pth'), **common).train()
    assert whole.rates[0] == 2 and rates.rates == pytest.approx(whole.rates[len(whole.rates) // 2:])


def test_under_an_iteration_based_loop_both_numbers_are_said(tmp_path):
    make(tmp_path / 'a', 2, by_iter=True).train()
    runner = make(tmp_path / 'b', 4, by_iter=True, resume=True, load_from=str(tmp_path / 'a/iter_8.pth'))
    runner.train()
    log = next((tmp_path / 'b').glob('*/*.log')).read_text()
    assert 'Resumed with 4 images an iteration, where the checkpoint has 2.' in log and runner.iter == 12


def test_another_schedule_in_the_config_is_told(tmp_path):
    make(tmp_path / 'a', epochs=2, schedule=SCHEDULES['cosine'] | dict(T_max=2, end=2)).train()
    make(tmp_path / 'b', epochs=4, schedule=SCHEDULES['cosine'] | dict(T_max=4, end=4), resume=True,
         load_from=str(tmp_path / 'a/epoch_2.pth')).train()
    log = next((tmp_path / 'b').glob('*/*.log')).read_text()
    assert "The checkpoint's schedules go on, not the config's: 0..16 instead of 0..32." in log


def test_another_lr_in_the_config_is_told(tmp_path):
    make(tmp_path / 'a', epochs=2, schedule=SCHEDULES['epochs']).train()
    runner = make(tmp_path / 'b', epochs=3, schedule=SCHEDULES['epochs'], resume=True,
                  load_from=str(tmp_path / 'a/epoch_2.pth'))
    runner.optim_wrapper['optimizer'].update(lr=1e-5, weight_decay=0.1)
    runner.train()
    log = next((tmp_path / 'b').glob('*/*.log')).read_text()
    assert "The checkpoint's LR goes on, not the config's: 1 instead of 1e-05, in 1 of 1 parameter group(s)." in log
    assert "The checkpoint's weight decay goes on, not the config's: 0 instead of 0.1" in log
    make(tmp_path / 'c', epochs=3, schedule=SCHEDULES['epochs'], resume=True,
         load_from=str(tmp_path / 'a/epoch_2.pth')).train()
    assert "The checkpoint's LR" not in next((tmp_path / 'c').glob('*/*.log')).read_text()


# --- through the tools

COSINE = """
param_scheduler = [dict(type='CosineAnnealingLR', T_max=4, eta_min=0, begin=0, end=4, by_epoch=True,
                        convert_to_iter_based=True)]
train_cfg = dict(max_epochs=4)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=5), logger=dict(interval=1))
"""


@pytest.mark.slow
def test_by_the_tools_on_two_devices_and_in_another_folder(shapes_root, tmp_path):
    config, first, second = tiny.write_config(tmp_path, tiny.SEGMENTOR, COSINE), tmp_path / 'first', tmp_path / 'second'
    python('tools/train.py', config, '--work-dir', first, SHAPES_ROOT=shapes_root)
    before = files(first)
    result = run_distributed('tools/dist_train.sh', config, '--work-dir', second, '--resume', first / 'epoch_2.pth',
                             SHAPES_ROOT=shapes_root)
    assert files(first) == before
    output = result.stdout + result.stderr
    assert 'Resumed with 2 iterations an epoch, where the checkpoint has 4 ' \
           '(4 images an iteration before, 8 now)' in output
    rates = [row['lr'] for row in scalars(second) if 'lr' in row]
    whole = [row['lr'] for row in scalars(first) if 'lr' in row]
    assert rates == pytest.approx([whole[8], whole[10], whole[12], whole[14]], rel=0.02)
