"""Training with live norms by the statistics of the inputs equals calling the branches."""
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from mobileone_mm import MobileOne, MobileOneBlock
from mobileone_mm.live_norms import sum_live_branches
from tests.support.blocks import GEOMETRIES, make_block

POINTWISE = dict(in_channels=6, out_channels=9, kernel_size=1, num_conv_branches=3)
SKIPPING = dict(in_channels=6, out_channels=6, kernel_size=1, num_conv_branches=2)
DEPTHWISE = dict(in_channels=6, out_channels=6, kernel_size=3, groups=6, num_conv_branches=2)
GAINING = [POINTWISE, SKIPPING, SKIPPING | dict(with_skip=False), DEPTHWISE, DEPTHWISE | dict(dilation=2)]


def block_and_input(geometry, dtype=torch.float64):
    block = make_block(geometry).to(dtype).train()
    x = 3 + torch.randn(3, block.in_channels, 13, 11, dtype=dtype, generator=torch.Generator().manual_seed(1))
    x = x.contiguous(memory_format=torch.channels_last)
    return block, x


def takes_the_fast_way(block, x):
    return sum_live_branches(deepcopy(block), x) is not None


def results(block, x, steps=1):
    """Output, gradients and buffers after some forward passes and one backward pass."""
    x = x.detach().clone().requires_grad_()
    for _ in range(steps):
        out = block(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return {'out': out, 'x': x.grad, **{name: p.grad for name, p in block.named_parameters()},
            **dict(block.named_buffers())}


def assert_equal(got, expected, tolerance):
    assert got.keys() == expected.keys()
    for key, value in got.items():
        atol = tolerance * max(1, expected[key].abs().max().item())
        torch.testing.assert_close(value, expected[key], rtol=0, atol=atol, msg=lambda text, key=key: f'{key}: {text}')


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=lambda g: '-'.join(f'{k[0]}{int(v)}' for k, v in g.items()))
@pytest.mark.parametrize('momentum', [0.1, None])
def test_a_block(geometry, momentum):
    fast, x = block_and_input(geometry)
    for norm in fast.norms():
        norm.momentum = momentum
    slow = deepcopy(fast)
    slow.fast_train = False
    assert_equal(results(fast, x, 3), results(slow, x, 3), 1e-10)


@pytest.mark.parametrize('geometry', GAINING)
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-3)])
def test_what_gains(geometry, dtype, tolerance):
    slow, x = block_and_input(geometry)
    fast = deepcopy(slow).to(dtype)
    slow.fast_train = False
    assert takes_the_fast_way(fast, x.to(dtype)) and not takes_the_fast_way(deepcopy(slow).eval(), x)
    got = results(fast, x.to(dtype))
    expected = results(slow, x)
    assert_equal({key: value.to(expected[key].dtype) for key, value in got.items()}, expected, tolerance)


def test_correlated_channels():
    """A branch whose output hardly varies, beside inputs that vary a lot: float32 would lose its variance."""
    torch.manual_seed(0)
    fast = MobileOneBlock(8, 8, 1, num_conv_branches=2, with_skip=False).train()
    x = torch.randn(4, 1, 16, 16) * 30 + 100 + 0.01 * torch.randn(4, 8, 16, 16)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        fast.conv_branches[0].conv.weight -= fast.conv_branches[0].conv.weight.mean(1, keepdim=True)
    exact = deepcopy(fast).double()
    exact.fast_train = False
    assert takes_the_fast_way(fast, x)
    fast(x), exact(x.double())
    norm, expected = fast.conv_branches[0].bn, exact.conv_branches[0].bn
    torch.testing.assert_close(norm.running_var.double() - 0.9, expected.running_var - 0.9, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize('geometry', GAINING)
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-8), (torch.float32, 1e-2)])
def test_channels_without_variance(geometry, dtype, tolerance):
    """A channel that ReLU has silenced, and a constant one, whose norms multiply rounding by 300."""
    slow, x = block_and_input(geometry)
    x[:, 1], x[:, 2] = 0, 2.5
    fast = deepcopy(slow).to(dtype)
    slow.fast_train = False
    assert takes_the_fast_way(fast, x.to(dtype))
    got, expected = results(fast, x.to(dtype)), results(slow, x)
    assert all(value.isfinite().all() for value in got.values())
    assert_equal({key: value.to(expected[key].dtype) for key, value in got.items()}, expected, tolerance)


@pytest.mark.parametrize('geometry', GAINING)
def test_gradients_of_gradients(geometry):
    """As a gradient penalty takes them."""
    penalties = []
    for fast_train in (True, False):
        block, x = block_and_input(geometry)
        block.fast_train = fast_train
        x.requires_grad_()
        gradient, = torch.autograd.grad(block(x).pow(3).sum(), x, create_graph=True)
        gradient.square().mean().backward()
        penalties.append({'x': x.grad, **{name: p.grad for name, p in block.named_parameters()}})
    assert_equal(*penalties, 1e-10)


@pytest.mark.parametrize('frozen', ['x', 'weights'])
def test_where_a_part_needs_no_gradient(frozen):
    block, x = block_and_input(SKIPPING)
    slow = deepcopy(block)
    slow.fast_train = False
    for each in (block, slow):
        for branch in each.conv_branches:
            branch.conv.weight.requires_grad_(frozen != 'weights')
    for create_graph in (False, True):
        pairs = []
        for each in (block, slow):
            given = x.clone().requires_grad_(frozen != 'x')
            inputs = [p for p in (given, *each.parameters()) if p.requires_grad]
            pairs.append(torch.autograd.grad(each(given).square().sum(), inputs, create_graph=create_graph))
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * max(1, b.abs().max().item()))


def branch(block):
    """One whose call is saved."""
    return block.scale_branch or block.conv_branches[0]


def hook(block):
    branch(block).bn.register_forward_hook(lambda *args: None)


def hook_on_all_modules(block):
    return nn.modules.module.register_module_forward_hook(lambda *args: None)


def replace_a_convolution(block):
    branch(block).conv = nn.Sequential(branch(block).conv)


def freeze_a_norm(block):
    branch(block).bn.eval()


def synchronize_norms(block):
    nn.SyncBatchNorm.convert_sync_batchnorm(block)


def override_a_forward(block):
    branch(block).bn.forward = branch(block).bn.forward


def add_a_module(block):
    branch(block).add_module('threshold', nn.Threshold(1e9, 0.))


CHANGES = [hook, hook_on_all_modules, replace_a_convolution, freeze_a_norm, synchronize_norms, override_a_forward,
           add_a_module,
           lambda block: prune.l1_unstructured(branch(block).conv, 'weight', 0.5),
           lambda block: parametrizations.weight_norm(branch(block).conv),
           lambda block: setattr(branch(block).bn, 'track_running_stats', False),
           lambda block: setattr(branch(block).bn, 'num_batches_tracked', None)]


@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('geometry', [SKIPPING, DEPTHWISE], ids=['pointwise', 'depthwise'])
def test_branches_that_were_changed_are_called(geometry, change):
    block, x = block_and_input(geometry)
    assert takes_the_fast_way(block, x)
    handle = change(block)
    try:
        assert sum_live_branches(block, x) is None
    finally:
        if handle is not None and hasattr(handle, 'remove'):
            handle.remove()


def test_other_ways_to_compute_call_the_branches():
    block, x = block_and_input(SKIPPING, torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        assert sum_live_branches(block, x) is None
    assert sum_live_branches(block, x[:, :, :1, :1][:1]) is None  # of one pixel there is no variance
    assert sum_live_branches(block, x[:0]) is None
    with torch.autograd.forward_ad.dual_level():
        assert sum_live_branches(block, torch.autograd.forward_ad.make_dual(x, x)) is None
        assert sum_live_branches(block, x) is None  # the weights might be dual numbers, too
    assert sum_live_branches(block, x.as_subclass(type('Own', (torch.Tensor, ), {}))) is None
    with pytest.raises(ValueError, match='more than 1 value per channel'):  # torch's own
        block(x[:1, :, :1, :1])


SMALL = dict(num_blocks=(1, 2, 1, 1), width_multipliers=(0.25, 0.125, 0.0625, 0.0625), num_conv_branches=2,
             num_se_blocks=(0, 0, 0, 1))


def trained(steps=3, dtype=torch.float64, **options):
    """The state, outputs and gradients of a small backbone after some steps."""
    torch.manual_seed(0)
    model = MobileOne(SMALL, out_indices=(1, 3), init_cfg=dict(type='NearIdentity'), **options)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.2)  # no channel at ReLU's kink, where rounding decides the gradient
    model = model.to(dtype).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    for step in range(steps):
        x = torch.randn(4, 3, 64, 64, dtype=dtype, generator=torch.Generator().manual_seed(step))
        maps = model(x)
        optimizer.zero_grad()
        sum((m - 1).square().mean() for m in maps).backward()
        optimizer.step()
    assert all(m.is_contiguous() for m in maps)
    return dict(enumerate(maps)) | model.state_dict() | {
        f'{name}.grad': p.grad for name, p in model.named_parameters() if p.grad is not None}


SLOW = dict(fast_train=False, channels_last=False)


@pytest.mark.parametrize('options', [{}, dict(with_cp=True), dict(frozen_stages=2), dict(norm_eval=True),
                                     dict(strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4))],
                         ids=lambda options: '-'.join(options) or 'default')
@pytest.mark.parametrize('fast', [dict(fast_train=True), dict(channels_last=True),
                                  dict(fast_train=True, channels_last=True)], ids='-'.join)
def test_a_backbone_in_training(options, fast):
    got, expected = trained(**options, **(SLOW | fast)), trained(**options, **SLOW)
    floats = [{key: value for key, value in each.items() if value.is_floating_point()} for each in (got, expected)]
    assert_equal(*floats, 1e-10)
    assert all(torch.equal(got[key], expected[key]) for key in got.keys() - floats[0].keys())


def test_a_backbone_in_float32():
    """Defaults against neither way, three steps: within 1e-3 of each tensor's largest element."""
    got, expected = trained(dtype=torch.float32), trained(dtype=torch.float32, **SLOW)
    for key, value in got.items():
        if value.is_floating_point():
            atol = 1e-3 * max(0.1, expected[key].abs().max().item())
            torch.testing.assert_close(value, expected[key], rtol=0, atol=atol)
