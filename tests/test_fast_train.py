"""The folded training step of frozen norms is the plain branches: outputs, gradients, whole trainings."""
from copy import deepcopy

import pytest
import torch
from conftest import ROOT
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS
from test_fold import GEOMETRIES, make
from torch import nn

from mobileone_mm import MobileOne, MobileOneBlock, calibrate_norms


def step(block, x, monkeypatch):
    """Output and all gradients of a forward and a backward pass, and whether the branches were summed."""
    summed = []
    with monkeypatch.context() as patch:
        patch.setattr(MobileOneBlock, '_sum_branches',
                      lambda self, x, f=MobileOneBlock._sum_branches: summed.append(self) or f(self, x))
        x = x.clone().requires_grad_()
        out = block(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return {'out': out, 'x': x.grad, **{name: p.grad for name, p in block.named_parameters()}}, bool(summed)


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=lambda g: '-'.join(f'{k[0]}{int(v)}' for k, v in g.items()))
def test_a_block(geometry, monkeypatch):
    fast = make(geometry).train()
    for norm in fast._norms():
        norm.eval()
    slow = deepcopy(fast)
    slow.fast_train = False
    x = 0.7 + torch.randn(3, fast.in_channels, 13, 11, dtype=torch.float64)
    (got, summed), (expected, slow_summed) = step(fast, x, monkeypatch), step(slow, x, monkeypatch)
    assert slow_summed and not summed
    for key, value in got.items():
        scale = max(1, expected[key].abs().max().item())
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-10 * scale)


def shift_norms(model):
    """Away from a shift of 0, with which a dead channel stands on ReLU's kink, and any rounding decides its gradient."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.2)


def train(arch, dtype, fast_train):
    """Ten steps of SGD with frozen norms; the model, and the losses."""
    torch.manual_seed(0)
    # Default weights make a chaos of any rounding: a relative change of 1e-15 in the stem is one of 1e-4 after four steps.
    model = MobileOne(arch, out_indices=(1, 3), init_cfg=dict(type='NearIdentity'), norm_eval=True, fast_train=fast_train)
    model.init_weights()
    shift_norms(model)
    model = model.to(dtype)
    batches = [torch.randn(4, 3, 96, 96, dtype=dtype, generator=torch.Generator().manual_seed(i)) for i in range(10)]
    calibrate_norms(model, batches[:2])
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    losses = []
    for x in batches:
        loss = sum((m - 1).square().mean() for m in model(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['s0', 's2'])
@pytest.mark.parametrize('dtype, tolerance', [
    (torch.float64, 1e-8), (torch.float32, 1e-3)])
def test_ten_steps_of_a_whole_backbone(arch, dtype, tolerance):
    fast, losses = train(arch, dtype, True)
    slow, expected = train(arch, dtype, False)
    assert losses == pytest.approx(expected, rel=tolerance) and losses[-1] != losses[0]
    for key, value in slow.state_dict().items():
        if value.is_floating_point():
            atol = tolerance * max(value.abs().max().item(), 0.1)
            torch.testing.assert_close(fast.state_dict()[key], value, rtol=0, atol=atol)


@pytest.mark.slow
def test_twenty_iterations_of_a_detector():
    register_all_modules()
    cfg = Config.fromfile(ROOT / 'configs' / 'detection' / 'ssdlite_mobileone_s0.py').model
    cfg.backbone.init_cfg, cfg.backbone.norm_eval = dict(type='NearIdentity'), True
    losses = []
    for fast_train in (True, False):
        torch.manual_seed(0)
        model = MODELS.build(cfg | dict(backbone=cfg.backbone | dict(fast_train=fast_train)))
        model.init_weights()
        shift_norms(model)
        model = model.double().train()
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
        losses.append([])
        for _ in range(20):
            data = demo_mm_inputs(4, [[3, 128, 128]] * 4, num_items=[3, 2, 1, 2], num_classes=80)
            data = model.data_preprocessor(data, True)
            out = model(data['inputs'].double(), data['data_samples'], mode='loss')
            loss = sum(sum(value) for value in out.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0][-1] < losses[0][0]
