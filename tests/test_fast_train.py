"""The fast training path is the plain branches: outputs, gradients, running statistics, whole trainings."""
from copy import deepcopy

import pytest
import torch
import torch.nn.utils.prune
from conftest import ROOT, randomize
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS
from test_fold import GEOMETRIES
from torch import nn

from mobileone_mm import ARCHS, MobileOne, MobileOneBlock, calibrate_norms, live

EXACT = dict(rtol=0, atol=1e-10)


@pytest.fixture(params=[True, False], ids=['covariance', 'convolutions'])
def covariance_pays(request, monkeypatch):
    """Both answers to what is a question of speed alone."""
    monkeypatch.setattr(live, '_covariance_pays', lambda block, x: request.param)


def make(geometry, **kwargs):
    torch.manual_seed(0)
    if geometry.get('with_se'):
        geometry = geometry | dict(in_channels=32, out_channels=32)
    return randomize(MobileOneBlock(**geometry, **kwargs)).double().train()


def step(model, x):
    """Output, all gradients and all buffers after a forward and a backward pass."""
    x = x.clone().requires_grad_()
    out = model(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return {'out': out, 'x': x.grad, **{name: p.grad for name, p in model.named_parameters()},
            **{name: buffer.clone() for name, buffer in model.named_buffers()}}


def plain(block):
    twin = deepcopy(block)
    for module in twin.modules():
        if isinstance(module, MobileOneBlock):
            module.fast_train = False
    return twin


def agree(got, expected, **tolerance):
    assert got.keys() == expected.keys()
    for key, value in got.items():
        if expected[key] is None:
            assert value is None, key
            continue
        atol = tolerance['atol'] * max(1, expected[key].abs().max().item())
        torch.testing.assert_close(value, expected[key], rtol=0, atol=atol, msg=lambda text, key=key: f'{key}: {text}')


def calls(monkeypatch, name):
    """How often a function of the fast path runs."""
    counted, function = [], getattr(live, name)
    monkeypatch.setattr(live, name, lambda *args: counted.append(name) or function(*args))
    return counted


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=lambda g: '-'.join(f'{k[0]}{int(v)}' for k, v in g.items()))
def test_a_block(geometry, covariance_pays, monkeypatch):
    block = make(geometry)
    x = 0.7 + torch.randn(3, block.in_channels, 13, 11, dtype=torch.float64)
    counted = calls(monkeypatch, 'sum_branches')
    expected = step(plain(block), x)
    assert not counted
    agree(step(block, x), expected, **EXACT)
    assert counted


@pytest.mark.parametrize('norm_cfg', [dict(type='BN', momentum=None), dict(type='BN', momentum=0.3, eps=1e-2)], ids=str)
@pytest.mark.parametrize('kernel_size, groups', [(1, 1), (3, 8)])
def test_running_statistics_of_several_batches(norm_cfg, kernel_size, groups, covariance_pays):
    fast = make(dict(in_channels=8, out_channels=8, kernel_size=kernel_size, groups=groups, num_conv_branches=3,
                     norm_cfg=norm_cfg))
    slow = plain(fast)
    for i in range(3):
        x = torch.randn(2, 8, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        fast(x), slow(x)
    agree(dict(fast.named_buffers()), dict(slow.named_buffers()), **EXACT)
    assert fast.conv_branches[0].bn.num_batches_tracked == 3


@pytest.mark.parametrize('kernel_size, groups', [(1, 1), (3, 8)])
def test_gradients_where_not_everything_needs_them(kernel_size, groups, covariance_pays):
    """Frozen kernels beside live norms, and the other way around; an input without gradient; two backward passes."""
    geometry = dict(in_channels=8, out_channels=8, kernel_size=kernel_size, groups=groups, num_conv_branches=2)
    for frozen in (nn.Conv2d, nn.BatchNorm2d):
        block = make(geometry)
        for module in block.modules():
            if isinstance(module, frozen):
                module.requires_grad_(False)
        x = torch.randn(2, 8, 7, 9, dtype=torch.float64)
        twin = plain(block)
        agree(step(block, x), step(twin, x), **EXACT)
    block, x = make(geometry), torch.randn(2, 8, 7, 9, dtype=torch.float64)
    twin = plain(block)
    for model in (block, twin):
        out = model(x)
        out.sum().backward(retain_graph=True)
        out.square().sum().backward()
    agree({name: p.grad for name, p in block.named_parameters()}, {name: p.grad for name, p in twin.named_parameters()},
          **EXACT)


def test_large_means_cost_no_digits():
    """In float32, where E[x^2] - E[x]^2 would."""
    for geometry in (dict(kernel_size=1), dict(kernel_size=3, groups=8)):
        block = make(dict(in_channels=8, out_channels=8, num_conv_branches=4, **geometry)).float()
        x = 300 + torch.randn(2, 8, 40, 40)
        exact = plain(block).double()(x.double())
        ours, theirs = ((model(x) - exact).abs().max() for model in (block, plain(block)))
        assert ours <= 3 * theirs + 1e-4


def prune(block):
    nn.utils.prune.l1_unstructured(block.conv_branches[0].conv, 'weight', 0.3)


def sync_bn(block):
    block.skip_branch = nn.SyncBatchNorm(8).to(torch.float64)


PLAIN = {
    'a hook on a branch': lambda block: block.conv_branches[1].register_forward_hook(lambda *args: None),
    'pruning': prune,
    'another convolution': lambda block: nn.utils.parametrize.register_parametrization(
        block.conv_branches[0].conv, 'weight', nn.Identity()),
    'SyncBN': sync_bn,
    'one frozen norm': lambda block: block.skip_branch.eval(),
    'norms with different eps': lambda block: setattr(block.skip_branch, 'eps', 1e-2),
    'channels_last': lambda block: block.to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize('name', PLAIN)
def test_plain_branches_where_something_sees_them(name):
    block = make(dict(in_channels=8, out_channels=8, kernel_size=1, num_conv_branches=4))
    x = torch.randn(2, 8, 7, 9, dtype=torch.float64)
    assert live.is_exact(block, x)
    twin = plain(block)
    for model in (block, twin):
        PLAIN[name](model)
    if name == 'channels_last':
        x = x.to(memory_format=torch.channels_last)
    assert not live.is_exact(block, x)
    if name != 'SyncBN':
        agree(step(block, x), step(twin, x), rtol=0, atol=0)


def test_plain_branches_under_autocast_and_for_a_single_value():
    block = make(dict(in_channels=8, out_channels=8, kernel_size=1, num_conv_branches=4)).float()
    with torch.autocast('cpu', torch.bfloat16):
        assert not live.is_exact(block, torch.randn(2, 8, 7, 9))
    with pytest.raises(ValueError, match='Expected more than 1 value per channel'):
        block(torch.randn(1, 8, 1, 1))


def shift_norms(model):
    """Away from a shift of 0, with which a dead channel stands on ReLU's kink, and any rounding decides its gradient."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.2)


def train(arch, dtype, norm_eval, **kwargs):
    """Ten steps of SGD; the weights, and the losses."""
    torch.manual_seed(0)
    # Default weights make a chaos of any rounding: a relative change of 1e-15 in the stem is one of 1e-4 after four steps.
    model = MobileOne(arch, out_indices=(1, 3), init_cfg=dict(type='NearIdentity'), **kwargs)
    model.init_weights()
    shift_norms(model)
    model = model.to(dtype).train()
    batches = [torch.randn(4, 3, 96, 96, dtype=dtype, generator=torch.Generator().manual_seed(i)) for i in range(10)]
    calibrate_norms(model, batches[:2])
    model.norm_eval = norm_eval
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


@pytest.mark.parametrize('arch', ['s0', pytest.param('s2', marks=pytest.mark.slow),
                                  pytest.param('s4', marks=pytest.mark.slow)])
@pytest.mark.parametrize('norm_eval', [False, True])
@pytest.mark.parametrize('dtype, tolerance', [
    pytest.param(torch.float64, 1e-8, marks=pytest.mark.slow), (torch.float32, 1e-3)])
def test_ten_steps_of_a_whole_backbone(arch, norm_eval, dtype, tolerance, monkeypatch):
    counted = calls(monkeypatch, '_shared_pointwise')
    fast, losses = train(arch, dtype, norm_eval)
    assert bool(counted) == (arch == 's0' and not norm_eval)
    slow, expected = train(arch, dtype, norm_eval, fast_train=False)
    assert losses == pytest.approx(expected, rel=tolerance) and losses[-1] != losses[0]
    for key, value in slow.state_dict().items():
        if value.is_floating_point():
            scale = value.abs().max().item()
            torch.testing.assert_close(fast.state_dict()[key], value, rtol=0, atol=tolerance * max(scale, 0.1))


@pytest.mark.slow
@pytest.mark.parametrize('norm_eval', [False, True])
def test_twenty_iterations_of_a_detector(norm_eval):
    register_all_modules()
    cfg = Config.fromfile(ROOT / 'configs' / 'detection' / 'ssdlite_mobileone_s0.py').model
    cfg.backbone.init_cfg, cfg.backbone.norm_eval = dict(type='NearIdentity'), norm_eval
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


def test_with_cp_and_calibration():
    """Recomputing updates the statistics once; without gradients (calibrate_norms) they are updated too."""
    arch = ARCHS['s0'] | dict(num_blocks=(1, 1, 2, 1))
    torch.manual_seed(0)
    fast = MobileOne(arch, with_cp=True).double().train()
    slow = plain(fast)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for model in (fast, slow):
        model(x)[0].mean().backward()
        with torch.no_grad():
            model(x)
    agree(dict(fast.named_buffers()), dict(slow.named_buffers()), **EXACT)
    assert fast.stage0.conv_branches[0].bn.num_batches_tracked == 2
