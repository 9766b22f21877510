"""The algebra: one convolution equals the sum of branches, and the tests would notice if it did not."""

import pytest
import torch
from mmengine.model import revert_sync_batchnorm

from mobileone_mm import MobileOne, reparameterize_model
from mobileone_mm import block as block_module
from mobileone_mm.block import MobileOneBlock
from tests.support.blocks import GEOMETRIES, make_block
from tests.support.reference import randomize, reference, reference_maps

TOLERANCE = dict(rtol=0, atol=1e-10)
def disagreement(geometry):
    block = make_block(geometry)
    x = torch.randn(2, block.in_channels, 13, 11, dtype=torch.float64)
    with torch.no_grad():
        return (block(x) - reference(block, x)).abs().max().item()


@pytest.mark.parametrize('geometry', GEOMETRIES, ids=lambda g: '-'.join(f'{k[0]}{int(v)}' for k, v in g.items()))
def test_eval_form_equals_branches(geometry):
    assert disagreement(geometry) < 1e-10


@pytest.mark.parametrize('norm_cfg', [dict(type='BN', eps=1e-3), dict(type='SyncBN'), dict(type='BN', affine=False)],
                         ids=str)
def test_norms(norm_cfg):
    block = make_block(dict(in_channels=8, out_channels=8, kernel_size=3, num_conv_branches=2), norm_cfg=norm_cfg)
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(block(x), reference(block, x), **TOLERANCE)
    if norm_cfg['type'] == 'SyncBN':
        reverted = revert_sync_batchnorm(block)
        assert type(reverted.skip_branch).__name__ == '_BatchNormXd'
        torch.testing.assert_close(reverted(x), reference(block, x), **TOLERANCE)
        reverted.train()
        reverted(x)
        reverted.eval()
        torch.testing.assert_close(reverted(x), reference(reverted, x), **TOLERANCE)


WRONG_FOLDS = {
    'no epsilon': lambda w, b, mean, var, gamma, beta, eps: (w * (gamma / var.sqrt()).reshape(-1, 1, 1, 1),
                                                             beta - mean * gamma / var.sqrt()),
    'variance for deviation': lambda w, b, mean, var, gamma, beta, eps: (
        w * (gamma / (var + eps)).reshape(-1, 1, 1, 1), beta - mean * gamma / (var + eps)),
    'no mean': lambda w, b, mean, var, gamma, beta, eps: (w * (gamma / (var + eps).sqrt()).reshape(-1, 1, 1, 1), beta),
    'no beta': lambda w, b, mean, var, gamma, beta, eps: (w * (gamma / (var + eps).sqrt()).reshape(-1, 1, 1, 1),
                                                          -mean * gamma / (var + eps).sqrt()),
    'no gamma': lambda w, b, mean, var, gamma, beta, eps: (w * (1 / (var + eps).sqrt()).reshape(-1, 1, 1, 1),
                                                           beta - mean / (var + eps).sqrt()),
    'scaled input channels': lambda w, b, mean, var, gamma, beta, eps: (
        w * (gamma / (var + eps).sqrt()).reshape(1, -1, 1, 1), beta - mean * gamma / (var + eps).sqrt()),
}


@pytest.mark.parametrize('name', WRONG_FOLDS)
def test_a_wrong_fold_is_noticed(monkeypatch, name):
    monkeypatch.setattr(block_module, 'fold_bn', WRONG_FOLDS[name])
    assert disagreement(dict(in_channels=8, out_channels=8, kernel_size=3)) > 1e-6


def test_a_wrong_identity_is_noticed(monkeypatch):
    right = block_module.identity_kernel
    monkeypatch.setattr(block_module, 'identity_kernel', lambda *args: right(*args).roll(1, 0))
    assert disagreement(dict(in_channels=8, out_channels=8, kernel_size=3)) > 1e-6


def test_a_scale_branch_off_the_centre_is_noticed(monkeypatch):
    right = block_module.pad_kernel
    monkeypatch.setattr(block_module, 'pad_kernel',
                        lambda w, k: right(w, k).roll(1, -1) if w.shape[-1] < k else right(w, k))
    assert disagreement(dict(in_channels=8, out_channels=8, kernel_size=3)) > 1e-6


@pytest.mark.parametrize('arch', ['s0', 's1', 's2', 's3', 's4', 's4_nose'])
@pytest.mark.parametrize('strides, dilations', [((2, 2, 2, 2), (1, 1, 1, 1)), ((2, 2, 1, 1), (1, 1, 2, 4))])
def test_backbone_forms_agree(arch, strides, dilations):
    torch.manual_seed(0)
    options = dict(arch=arch, out_indices=(0, 1, 2, 3), strides=strides, dilations=dilations)
    model = randomize(MobileOne(**options)).double().eval()
    x = torch.randn(1, 3, 65, 33, dtype=torch.float64)
    with torch.no_grad():
        expected = reference_maps(model, x)
        scale = max(feature.abs().max() for feature in expected)
        loaded = MobileOne(**options, deploy=True).double().eval()
        loaded.load_state_dict(model.state_dict())
        for output in (model(x), reparameterize_model(model)(x), loaded(x)):
            for got, feature in zip(output, expected, strict=True):
                torch.testing.assert_close(got / scale, feature / scale, **TOLERANCE)


def test_train_form_equals_torch_batch_norm():
    """In train mode a block is the plain sum of conv + BatchNorm branches, buffers included."""
    torch.manual_seed(0)
    block = randomize(MobileOneBlock(8, 8, 3, num_conv_branches=2)).double().train()
    x = torch.randn(4, 8, 9, 9, dtype=torch.float64)
    expected = 0
    for branch in [*block.conv_branches, block.scale_branch, torch.nn.ModuleDict(dict(bn=block.skip_branch))]:
        y = branch.conv(x) if 'conv' in branch._modules else x
        y = (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        expected = expected + y * branch.bn.weight.reshape(1, -1, 1, 1) + branch.bn.bias.reshape(1, -1, 1, 1)
    torch.testing.assert_close(block(x), expected.relu(), **TOLERANCE)
    assert block.skip_branch.num_batches_tracked == 1
