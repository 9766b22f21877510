"""A training that diverges ends soon, in one line, and leaves its finite checkpoints."""
import re

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mobileone_mm import DivergenceHook
from mobileone_mm.apis.launch import build_runner
from mobileone_mm.utils.errors import ArgumentError, DivergenceError
from tests.support import tiny
from tests.support.paths import ROOT
from tests.support.runs import python
from tests.support.training import Mean

BATCHES = 4


class Net(BaseModel):
    """A weight and a norm; its loss, and what its gradient is multiplied with, are given per iteration."""

    def __init__(self, losses=None, gradients=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer('mask', torch.tensor([0., -torch.inf]))  # as that of an attention
        self.register_buffer('mean', torch.zeros(1))
        self.losses, self.gradients, self.seen = losses or {}, gradients or {}, 0

    def train_step(self, data, optim_wrapper):
        self.seen += 1
        loss = self.weight.square().sum()
        loss = loss * self.losses.get(self.seen, 1.)
        if self.seen in self.gradients:
            self.weight.register_hook(lambda grad, factor=self.gradients[self.seen]: grad * factor)
        optim_wrapper.update_params(loss)
        return dict(loss=loss.detach(), loss_cls=loss.detach(), accuracy=torch.tensor(0.5))

    def val_step(self, data):
        return [1.]  # as mIoU, which is a number even where the weights are none

    def forward(self, *args, **kwargs):
        raise NotImplementedError


class Spoil(Hook):
    """What a step of the optimizer may do after a loss that was still a number."""

    def __init__(self, iteration, name='weight'):
        self.iteration, self.name = iteration, name

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == self.iteration:
            for key, tensor in runner.model.state_dict().items():
                if key == self.name:
                    tensor.fill_(torch.nan)


def loader(by_epoch=True):
    return dict(batch_size=1, num_workers=0, dataset=list(range(BATCHES)), collate_fn=dict(type='pseudo_collate'),
                sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=False))


def make(work_dir, model, *hooks, by_epoch=True, optim_wrapper=None, checkpoint=None, divergence=None, **cfg):
    train = dict(by_epoch=True, max_epochs=5) if by_epoch else dict(by_epoch=False, max_iters=20, val_interval=4)
    saves = dict(type='CheckpointHook', interval=1 if by_epoch else BATCHES, by_epoch=by_epoch, max_keep_ckpts=2)
    return Runner(
        model, str(work_dir), train_dataloader=loader(by_epoch), train_cfg=train,
        val_dataloader=loader(), val_cfg=dict(),
        val_evaluator=[Mean()], optim_wrapper=optim_wrapper or dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=saves | (checkpoint or {}), divergence=divergence or dict(type='DivergenceHook')),
        custom_hooks=list(hooks), experiment_name=work_dir.name, **cfg)


def saved(work_dir):
    return sorted(path.name for path in work_dir.glob('*.pth'))


def all_finite(work_dir):
    for path in work_dir.glob('*.pth'):
        state_dict = torch.load(path, weights_only=False)['state_dict']
        assert all(value.isfinite().all() for key, value in state_dict.items() if key != 'mask'), path
    return True


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_the_loss_is_no_number(by_epoch, value, tmp_path):
    runner = make(tmp_path, Net(losses={14: value}), by_epoch=by_epoch)
    last = 'epoch_3' if by_epoch else 'iter_12'
    message = rf'The loss is no number at iteration 14 \(loss: {value}, loss_cls: {value}\)\. The LR is 0\.01\. ' \
              rf'Try a lower one \(optim_wrapper\.optimizer\.lr\), .* clipped .*is \'.*/{last}\.pth\''
    with pytest.raises(DivergenceError, match=message):
        runner.train()
    assert saved(tmp_path) == (['epoch_2.pth', 'epoch_3.pth'] if by_epoch else ['iter_12.pth', 'iter_8.pth'])


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
@pytest.mark.parametrize('checkpoint', [dict(), dict(interval=-1, save_last=False, save_best='mean', rule='greater')],
                         ids=['max_keep_ckpts', 'save_best'])
@pytest.mark.parametrize('name', ['weight', 'mean'])
def test_the_weights_are_no_numbers(by_epoch, checkpoint, name, tmp_path):
    """After the last step before a checkpoint; the loss would tell in the next iteration only."""
    iteration = 4 if checkpoint else 12
    runner = make(tmp_path, Net(), Spoil(iteration, name), by_epoch=by_epoch, checkpoint=checkpoint)
    with pytest.raises(DivergenceError, match=f'{name} of the model hold NaN or infinity after iteration {iteration}'):
        runner.train()
    expected = ['epoch_1.pth', 'epoch_2.pth'] if by_epoch else ['iter_4.pth', 'iter_8.pth']
    assert saved(tmp_path) == ([] if checkpoint else expected) and all_finite(tmp_path)


def test_the_average_is_no_number(tmp_path):
    """EMAHook's copy is what is saved."""

    class SpoilAverage(Spoil):

        def after_train_iter(self, runner, *args, **kwargs):
            average = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
            if runner.iter + 1 == self.iteration:
                average.module.weight.data.fill_(torch.nan)

    runner = make(tmp_path, Net(), dict(type='EMAHook'), SpoilAverage(8))
    with pytest.raises(DivergenceError, match=r'ema_model\.module\.weight of the model'):
        runner.train()
    assert saved(tmp_path) == ['epoch_1.pth'] and all_finite(tmp_path)


def test_another_hook_saves(tmp_path):

    class Saves(Hook):

        def after_train_iter(self, runner, *args, **kwargs):
            runner.save_checkpoint(runner.work_dir, 'own.pth')

    runner = make(tmp_path, Net(), Spoil(2), Saves())
    with pytest.raises(DivergenceError, match='weight of the model'):
        runner.train()
    assert saved(tmp_path) == ['own.pth'] and all_finite(tmp_path)


class Scaled(OptimWrapper):
    """mmengine's AmpOptimWrapper, which refuses a CPU, with torch's scaler for the CPU."""

    backward, step = AmpOptimWrapper.backward, AmpOptimWrapper.step

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.loss_scaler, self._scale_update_param = torch.amp.GradScaler('cpu'), None


def scaled(model):
    return Scaled(torch.optim.SGD(model.parameters(), 0.01))


def test_gradients_that_overflow_under_a_loss_scaler(tmp_path):
    model = Net(losses={6: torch.inf}, gradients={2: torch.inf})
    make(tmp_path, model, optim_wrapper=scaled(model)).train()
    assert saved(tmp_path) == ['epoch_4.pth', 'epoch_5.pth'] and all_finite(tmp_path)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'no number at iteration 6 (loss: inf' in log and 'The loss scaler leaves out this step' in log
    assert 'no number at iteration 2' not in log


def test_a_loss_scaler_helps_only_now_and_then(tmp_path):
    model = Net(losses=dict.fromkeys(range(6, 100), torch.nan))
    runner = make(tmp_path, model, optim_wrapper=scaled(model), divergence=dict(type='DivergenceHook', patience=5))
    with pytest.raises(DivergenceError, match=r'at iteration 10 .* no --amp\. '):
        runner.train()


def test_the_interval(tmp_path):
    with pytest.raises(DivergenceError, match='at iteration 6 '):
        make(tmp_path, Net(losses=dict.fromkeys(range(5, 100), torch.nan)),
             divergence=dict(type='DivergenceHook', interval=3)).train()
    with pytest.raises(ArgumentError, match='interval must be an int of at least 1'):
        DivergenceHook(interval=0)


def test_users_own_configs(tmp_path):
    """The hook is added, in the place of mmdet's, which would end without words; None switches it off."""
    from mmengine.config import Config
    cfg = Config(dict(
        model=dict(type=Net), work_dir=str(tmp_path), train_dataloader=loader(),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)), experiment_name=tmp_path.name,
        custom_hooks=[dict(type='mmdet.CheckInvalidLossHook', interval=1)]))
    off = Config(cfg.to_dict() | dict(experiment_name=f'{tmp_path.name}_off', default_hooks=dict(divergence=None)))
    names = [[type(hook).__name__ for hook in build_runner(each).hooks] for each in (cfg, off)]
    assert 'DivergenceHook' in names[0] and 'CheckInvalidLossHook' not in names[0]
    assert 'DivergenceHook' not in names[1] and 'CheckInvalidLossHook' in names[1]


# An LR that becomes absurd in the third epoch.
ABSURD = "param_scheduler = [dict(type='MultiStepLR', milestones=[2], gamma=1e30)]\ntrain_cfg = dict(max_epochs=6)\n"
PRETRAINING = f"_base_ = r'{ROOT}/configs/pretraining/mobileone_s2_shapes.py'\n" + '''
arch = dict(_delete_=True, num_blocks=(1, 1, 1, 1), width_multipliers=(0.25, 0.25, 0.25, 0.25), num_conv_branches=2,
            num_se_blocks=(0, 0, 0, 1))
model = dict(backbone=dict(arch=arch), head=dict(in_channels=128))
common = dict(batch_size=4, num_workers=0)
train_dataloader = dict(**common)
val_dataloader = dict(**common)
custom_hooks = [dict(type='EMAHook', update_buffers=True)]
default_hooks = dict(logger=dict(interval=1))
'''


@pytest.mark.parametrize('kind', [
    'segmentation', *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('detection', 'pretraining'))])
def test_an_absurd_lr(kind, shapes_root, tmp_path):
    text = dict(segmentation=tiny.SEGMENTOR, detection=tiny.DETECTOR, pretraining=PRETRAINING)[kind]
    config, work = tiny.write_config(tmp_path, text, ABSURD), tmp_path / 'work'
    result = python('tools/train.py', config, '--work-dir', work, check=False, SHAPES_ROOT=shapes_root)
    assert result.returncode == 1 and 'Traceback' not in result.stderr, result.stderr[-3000:]
    error = result.stderr.strip().splitlines()[-1]
    assert re.search(r'^Error: The loss is no number at iteration \d+ \(loss: .*\)\. The LR is 2e\+27\. Try a lower .* '
                     r"The last finite checkpoint is '.*/work/epoch_2\.pth'", error)
    assert {'epoch_1.pth', 'epoch_2.pth'} <= set(saved(work)) and 'epoch_3.pth' not in saved(work)
    assert all_finite(work)
