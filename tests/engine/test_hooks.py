"""mm's hooks around an eval form: their writes through ``.data`` take effect at once."""
from itertools import pairwise

import pytest
import torch
from mmdet.engine.hooks import MeanTeacherHook
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from torch import nn

from tests.support.reference import reference_maps
from tests.support.training import IMAGES, Mean, Model, backbone, loader


class Teacher(Model):
    """Student and teacher, as in mmdet's SemiBaseDetector."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = self.backbone, backbone()
        del self.backbone
        self.teacher.eval()
        for parameter in self.teacher.parameters():
            parameter.requires_grad = False
        self.outputs = []

    def forward(self, x, mode):
        with torch.no_grad():
            outputs = self.teacher(x)
            for got, expected in zip(outputs, reference_maps(self.teacher, x), strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())
        self.outputs.append(outputs[-1].clone())
        return dict(loss=(self.student(x)[-1].mean() - 1).square())

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self


def make_runner(tmp_path, model, hooks, epochs=3, validates=True, **kwargs):
    validation = dict(val_dataloader=loader(False), val_cfg=dict(), val_evaluator=[Mean()]) if validates else {}
    return Runner(
        model, str(tmp_path), train_dataloader=loader(True), train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)), custom_hooks=hooks, randomness=dict(seed=0),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='mean', rule='greater',
                                           backend_args=dict(backend='atomic_local'))),
        experiment_name=tmp_path.name, **validation, **kwargs)


def test_ema_hook(tmp_path):
    """Validation and the best checkpoint have the averaged weights, training continues with the raw."""
    runner = make_runner(tmp_path / 'ema', Model(), [dict(type='EMAHook', momentum=0.3)], test_dataloader=loader(False),
                         test_cfg=dict(), test_evaluator=[Mean()])
    runner.train()
    # Validates the average again, then restores the raw weights, which are compared below.
    # (Runner.test() would first make EMAHook begin a new average.)
    tested = runner.test_loop.run()['mean']
    scores = runner.message_hub.get_scalar('val/mean').data[0]
    best = next((tmp_path / 'ema').glob('best_*.pth'))
    model = Model()
    from mmengine.runner import load_checkpoint
    load_checkpoint(model, str(best), strict=True)
    model.eval()
    with torch.no_grad():
        batches = [torch.stack(IMAGES[:2]), torch.stack(IMAGES[2:])]
        again = sum(model(x, 'predict')[0] for x in batches) / 2
    assert again == pytest.approx(max(scores), rel=1e-5)
    assert tested == pytest.approx(scores[-1], rel=1e-5)

    plain = make_runner(tmp_path / 'plain', Model(), [])
    plain.train()
    raw = runner.model.state_dict()
    assert all(torch.equal(value, raw[key]) for key, value in plain.model.state_dict().items())
    assert plain.message_hub.get_scalar('val/mean').data[0].tolist() != scores.tolist()


def test_mean_teacher_hook(tmp_path):
    runner = make_runner(tmp_path / 'teacher', Teacher(), [MeanTeacherHook(momentum=0.1)], epochs=4, validates=False)
    runner.train()
    outputs = runner.model.outputs
    assert len(outputs) == 8
    assert all(not torch.equal(a, b) for a, b in pairwise(outputs[1:]))


@pytest.mark.parametrize('num_workers', [0, 1])
def test_validation_draws_no_random_numbers_of_training(tmp_path, num_workers):
    """Bit-identical weights; drop-out would show a difference."""

    class WithDropout(Model):

        def __init__(self):
            super().__init__()
            self.backbone.stage3.append(nn.Dropout(0.5))

        def forward(self, x, mode):
            maps = self.backbone(x)
            return dict(loss=(maps[-1].mean() - 1).square()) if mode == 'loss' else [maps[-1].mean().item()]

    states = []
    for interval in (1, 100):
        runner = make_runner(tmp_path / str(interval), WithDropout(), [dict(type='PreserveRandomStateHook')])
        runner.train_loop.val_interval = interval
        runner._val_dataloader['num_workers'] = num_workers
        runner.train()
        states.append(runner.model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_checkpoint_hook_writes_whole_files_only(tmp_path, monkeypatch):
    runner = make_runner(tmp_path / 'full', Model(), [], epochs=1)
    runner.train()
    folder = tmp_path / 'full'
    before = (folder / 'epoch_1.pth').read_bytes()
    import os

    def full_disk(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full_disk)
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    with pytest.raises(OSError, match='No space left'):
        hook.file_backend.put(b'half', str(folder / 'epoch_1.pth'))
    assert (folder / 'epoch_1.pth').read_bytes() == before
    assert not list(folder.glob('.*part'))
