"""Options in mm's configs: AMP, accumulation, clipping, checkpointing, compile; gradients in eval."""
import pytest
import torch
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from mobileone_mm import MobileOneBlock
from tests.support.reference import reference_maps
from tests.support.training import Mean, Model, backbone, loader


def train(tmp_path, optim_wrapper=None, model=None, epochs=2, **cfg):
    """A short run of the real Runner with validation (which checks each prediction); returns the runner."""
    runner = Runner(
        model or Model(), str(tmp_path), train_dataloader=loader(True),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)) | (optim_wrapper or {}), val_dataloader=loader(False),
        val_cfg=dict(), val_evaluator=[Mean()], randomness=dict(seed=0), experiment_name=tmp_path.name, cfg=cfg)
    runner.train()
    return runner


def equal(a, b, **tolerance):
    for (key, value), other in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        if tolerance:
            torch.testing.assert_close(value, other, msg=lambda text, key=key: f'{key}: {text}', **tolerance)
        else:
            assert torch.equal(value, other), key


SLOW = dict(optimizer=dict(type='SGD', lr=1e-4))  # with a larger LR, this loss would amplify any difference


def in_plain_layout():
    """A model that computes as in a graph, which has no channels_last inside; the other layout rounds differently."""
    model = Model()
    model.backbone.channels_last = False
    return model


class InBFloat16(Model):
    """What AmpOptimWrapper does on a GPU (it refuses a CPU)."""

    def train_step(self, data, optim_wrapper):
        with torch.autocast('cpu', torch.bfloat16):
            losses = self(torch.stack(data), 'loss')
        assert {tensor.dtype for tensor in self.state_dict().values()} == {torch.float32, torch.int64}
        optim_wrapper.update_params(losses['loss'])
        return losses


def test_amp_in_bfloat16(tmp_path):
    amp, plain = train(tmp_path / 'amp', SLOW, InBFloat16()), train(tmp_path / 'plain', SLOW)
    for (key, value), other in zip(amp.model.state_dict().items(), plain.model.state_dict().values(), strict=True):
        # 8 bits, over 14 layers
        assert (value - other).abs().float().mean() <= 0.15 * max(0.1, other.abs().float().mean()), key
    assert not torch.equal(amp.model.backbone.stage0.conv_branches[0].conv.weight,
                           plain.model.backbone.stage0.conv_branches[0].conv.weight)


def test_accumulation_and_clipping(tmp_path):
    runner = train(tmp_path / 'run', dict(accumulative_counts=2, clip_grad=dict(max_norm=0.01)), epochs=1)
    start = Model()
    moved = [(a.detach() - b.detach()).norm()
             for a, b in zip(runner.model.parameters(), start.parameters(), strict=True)]
    # One step over two batches, with the gradient clipped to a norm of 0.01, at an LR of 0.05.
    torch.testing.assert_close(torch.stack(moved).norm(), torch.tensor(0.05 * 0.01), rtol=1e-2, atol=0)


def test_activation_checkpointing_by_mmengines_key(tmp_path):
    """Same weights. The statistics of recomputed norms count twice, as for all norms under that key.

    with_cp is exact.
    """
    keys = ['backbone.stage2', 'backbone.stage3.1']
    checkpointed = train(tmp_path / 'checkpointed', activation_checkpointing=keys)
    plain = train(tmp_path / 'plain')
    for (key, value), other in zip(checkpointed.model.state_dict().items(), plain.model.state_dict().values(),
                                   strict=True):
        if 'running' not in key and 'num_batches' not in key:
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)


def test_with_cp_by_its_own_argument(tmp_path):
    """Same weights and same running statistics: a recomputed block counts its batch once."""
    model = Model()
    for block in model.modules():
        if isinstance(block, MobileOneBlock):
            block.with_cp = True
    equal(train(tmp_path / 'cp', model=model), train(tmp_path / 'plain'), rtol=1e-4, atol=1e-6)


def test_efficient_conv_bn_eval_by_mmengines_key(tmp_path):
    """It replaces the backbone's forward by a traced one, in which a block is one call, and folds."""
    runner = train(tmp_path / 'efficient', model=in_plain_layout(), efficient_conv_bn_eval='backbone')
    assert 'forward' in vars(runner.model.backbone)
    equal(runner, train(tmp_path / 'plain', model=in_plain_layout()))


@pytest.mark.slow
def test_torch_compile_by_mmengines_key(tmp_path):
    compiled = train(tmp_path / 'compiled', model=in_plain_layout(), compile=dict(backend='aot_eager'))
    equal(compiled, train(tmp_path / 'plain', model=in_plain_layout()), rtol=1e-3, atol=1e-5)


def test_fgsm_and_grad_cam_in_eval():
    """Gradients with respect to the image and each stage's map are those of the branches."""
    model = backbone().double().eval()
    grads = []
    for forward in (lambda x: model(x), lambda x: reference_maps(model, x)):
        x = torch.randn(1, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
        maps = forward(x)
        loss = (maps[-1] * torch.linspace(-1, 1, maps[-1].numel(), dtype=x.dtype).view_as(maps[-1])).sum()
        grads.append(torch.autograd.grad(loss, [x, *maps[:-1]]))
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * expected.abs().max().item())
    attacked = x.detach() + 0.01 * grads[0][0].sign()
    with torch.no_grad():
        torch.testing.assert_close(model(attacked)[-1], reference_maps(model, attacked)[-1], rtol=1e-9, atol=1e-9)


class Features(Dataset):
    """A model inside a dataset, as some teachers are: pickled to the workers."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 4

    def __getitem__(self, index):
        with torch.no_grad():
            return self.model(torch.full((1, 3, 32, 32), float(index)))[-1]


@pytest.mark.slow
def test_pickled_to_a_worker():
    model = backbone().eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))  # a warm cache
        expected = [model(torch.full((1, 3, 32, 32), float(i)))[-1] for i in range(4)]
    outputs = list(DataLoader(Features(model), batch_size=None, num_workers=1, multiprocessing_context='spawn'))
    for got, feature in zip(outputs, expected, strict=True):
        torch.testing.assert_close(got, feature, rtol=1e-4, atol=1e-4 * feature.abs().max().item())
