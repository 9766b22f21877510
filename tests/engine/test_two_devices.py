"""Two gloo processes in the Runner, started by our own ``launch``: what they validate is saved, and they end together.

Run as a script, by torchrun, this is one of the two.
"""
import os
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, METRICS, MODELS
from torch import nn

from tests.support.runs import python


@MODELS.register_module()
class Normed(BaseModel):
    """A norm, whose images differ from device to device, and whose statistics are what it predicts."""

    def __init__(self):
        super().__init__(data_preprocessor=dict(type='Listed'))
        self.norm, self.seen = nn.BatchNorm1d(1), 0

    def forward(self, inputs, mode='tensor'):
        x = torch.stack(inputs)
        if mode == 'loss':
            self.seen += 1
            loss = self.norm(x + 10 * get_rank()).square().mean()
            is_bad = (self.seen, os.environ.get('NAN_ON')) == (3, str(get_rank()))
            return dict(loss=loss * torch.nan if is_bad else loss)
        return [self.norm.running_mean.item()] * len(x)


@METRICS.register_module()
class Predictions(BaseMetric):
    """Those of all devices."""

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(least=min(results), most=max(results))


@HOOKS.register_module()
class Remember(Hook):
    """The metrics of each validation, and the norms' statistics after each iteration."""

    priority = 'LOWEST'

    def before_run(self, runner):
        self.metrics, self.means = {}, {}

    def after_train_iter(self, runner, *args, **kwargs):
        average = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
        self.means[runner.iter + 1] = average.module.norm.running_mean.item()

    def after_val_epoch(self, runner, metrics):
        self.metrics[runner.iter] = metrics

    def after_run(self, runner):
        torch.save(dict(metrics=self.metrics, means=self.means), f'{runner.work_dir}/{get_rank()}.pt')


def one_of_two(work_dir):
    from mobileone_mm.apis.launch import train
    from mobileone_mm.utils.errors import errors_in_one_line

    def loader(sampler):
        return dict(batch_size=4, num_workers=0, dataset=[torch.tensor([float(i)]) for i in range(16)],
                    collate_fn=dict(type='pseudo_collate'), sampler=dict(type=sampler, shuffle=False))

    with errors_in_one_line():
        train(Config(dict(
            model=dict(type='Normed'), work_dir=work_dir, launcher='pytorch',
            train_dataloader=loader('InfiniteSampler'), train_cfg=dict(by_epoch=False, max_iters=8, val_interval=3),
            val_dataloader=loader('DefaultSampler'), val_cfg=dict(), val_evaluator=[dict(type='Predictions')],
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)),
            custom_hooks=[dict(type='EMAHook', momentum=0.3, update_buffers=True), dict(type='SyncAveragedBuffersHook'),
                          dict(type='Remember')])))


@MODELS.register_module()
class Listed(nn.Module):
    """Hands the images on."""

    def forward(self, data, training=False):
        return dict(inputs=data)


def run(work_dir, **env):
    """Both; ``NAN_ON`` is the device that meets a loss which is no number, in iteration 3."""
    return python('-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={20000 + os.getpid() % 20000}',
                  Path(__file__), work_dir, OMP_NUM_THREADS=1, **env)


def test_what_is_validated_is_saved_under_an_iteration_based_loop(tmp_path):
    """With EMAHook, at iterations that save, that validate, and that do both."""
    run(tmp_path)
    results = [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]
    saved = {i: torch.load(tmp_path / f'iter_{i}.pth', weights_only=False)['state_dict']['norm.running_mean'].item()
             for i in (2, 4, 6, 8)}
    for metrics in results[0]['metrics'].values():
        assert metrics['least'] == metrics['most']
    assert list(results[0]['metrics']) == [3, 6, 8]
    assert results[0]['metrics'][6]['most'] == saved[6] and results[0]['metrics'][8]['most'] == saved[8]
    for i, mean in saved.items():
        assert mean == results[0]['means'][i] == results[1]['means'][i]
    assert results[0]['means'][5] != results[1]['means'][5]  # in between, each counts its own


@pytest.mark.slow
@pytest.mark.parametrize('rank', [0, 1])
def test_a_loss_that_is_no_number_on_one_device_ends_both(rank, tmp_path):
    result = run(tmp_path, NAN_ON=rank, check=False)
    assert result.returncode == 1
    assert result.stderr.count('Error: The loss is no number at iteration 3 (loss: nan)') == 1, result.stderr[-3000:]
    assert 'Traceback' not in result.stderr.partition('Error: The loss')[0]  # torchrun's own comes after it
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_2.pth']


if __name__ == '__main__':
    one_of_two(sys.argv[1])
