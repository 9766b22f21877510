"""The folded training step of frozen norms equals the branches: outputs, gradients, trainings."""
from copy import deepcopy

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval_for_single_model
from mmengine.registry import MODELS
from torch import nn

from mobileone_mm import MobileOne, MobileOneBlock, calibrate_norms
from tests.support.blocks import GEOMETRIES, make_block
from tests.support.paths import ROOT
from tests.support.reference import randomize


def step(block, x, monkeypatch):
    """Output, buffers and gradients of a forward and backward pass, and whether branches were summed."""
    summed = []
    with monkeypatch.context() as patch:
        patch.setattr(MobileOneBlock, 'sum_branches',
                      lambda self, x, f=MobileOneBlock.sum_branches: summed.append(self) or f(self, x))
        x = x.clone().requires_grad_()
        out = block(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return {'out': out, 'x': x.grad, **dict(block.named_buffers()),
            **{name: p.grad for name, p in block.named_parameters()}
            }, bool(summed)


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=lambda g: '-'.join(f'{k[0]}{int(v)}' for k, v in g.items()))
def test_a_block(geometry, monkeypatch):
    fast = make_block(geometry).train()
    for norm in fast.norms():
        norm.eval()
    slow = deepcopy(fast)
    slow.fast_train = False
    x = 0.7 + torch.randn(3, fast.in_channels, 13, 11, dtype=torch.float64)
    (got, summed), (expected, slow_summed) = step(fast, x, monkeypatch), step(slow, x, monkeypatch)
    assert slow_summed and not summed
    for key, value in got.items():
        scale = max(1, expected[key].abs().max().item())
        torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-10 * scale)


SMALL = dict(num_blocks=(1, 2, 1, 1), width_multipliers=(0.25, 0.125, 0.0625, 0.0625), num_conv_branches=2,
             num_se_blocks=(0, 0, 0, 1))


@pytest.mark.parametrize('option', ['with_cp', 'channels_last', 'compile', 'efficient_conv_bn_eval', 'hooks',
                                    'bfloat16'])
def test_what_people_switch_on(option):
    """Frozen norms as one convolution, under an option, against the branches without it."""
    torch.manual_seed(0)
    slow = randomize(MobileOne(SMALL, norm_eval=True, fast_train=False, out_indices=(1, 3)))
    fast = MobileOne(SMALL, norm_eval=True, with_cp=option == 'with_cp', out_indices=(1, 3))
    fast.load_state_dict(slow.state_dict())
    dtype = torch.float32 if option == 'bfloat16' else torch.float64
    fast, slow = fast.to(dtype).train(), slow.to(dtype).train()
    x = torch.randn(2, 3, 64, 64, dtype=dtype)
    calls = []
    if option == 'hooks':  # a hook that observes the input; a folded branch is not called
        for module in fast.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape))
    elif option == 'efficient_conv_bn_eval':
        turn_on_efficient_conv_bn_eval_for_single_model(fast)
    run = torch.compile(fast, backend='aot_eager') if option == 'compile' else fast
    given = x.contiguous(memory_format=torch.channels_last) if option == 'channels_last' else x
    with torch.autocast('cpu', torch.bfloat16, enabled=option == 'bfloat16'):
        got = run(given)
    expected = slow(x)
    assert len(calls) == (4 if option == 'hooks' else 0)  # of two SE
    for maps in (got, expected):
        sum(m.to(dtype).square().mean() for m in maps).backward()
    pairs = [*zip(got, expected, strict=True), *((a.grad, b.grad) for a, b in zip(
        fast.parameters(), slow.parameters(), strict=True))]
    for a, b in pairs:
        atol = (0.1 if option == 'bfloat16' else 1e-10) * max(1, b.abs().max().item())
        torch.testing.assert_close(a.to(b.dtype), b, rtol=0, atol=atol)


def shift_norms(model):
    """No shift is 0: a dead channel would be at ReLU's kink, where rounding decides its gradient."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.2)


def train(arch, dtype, fast_train):
    """Ten steps of SGD with frozen norms; the model, and the losses."""
    torch.manual_seed(0)
    # Default weights amplify rounding: a relative change of 1e-15 in the stem becomes 1e-4 after
    # four steps.
    model = MobileOne(arch, out_indices=(1, 3), init_cfg=dict(type='NearIdentity'), norm_eval=True,
                      fast_train=fast_train)
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
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-8), (torch.float32, 1e-3)])
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
