"""Weights of the real timm and the real mmpretrain, where these are installed."""
import warnings

import pytest
import torch
from mmengine.registry import init_default_scope

from mobileone_mm import MobileOne, reparameterize_model
from mobileone_mm.apis.convert import convert_checkpoint
from tests.support.archs import ARCH_PARAMS
from tests.support.reference import randomize

OUT = dict(out_indices=(0, 1, 2, 3))


@pytest.fixture(params=ARCH_PARAMS)
def arch(request):
    return request.param


def timms(arch):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # an old torchvision without its operators
        timm = pytest.importorskip('timm', exc_type=ImportError)
    torch.manual_seed(0)
    return randomize(timm.create_model(f'mobileone_{arch}', num_classes=10)).double().eval()


def timms_features(model, x):
    x = model.stem(x)
    maps = []
    for stage in model.stages:
        x = stage(x)
        maps.append(x)
    return maps


def mmpretrains(arch):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pytest.importorskip('mobileone_mm.tasks.pretraining', exc_type=ImportError)
    init_default_scope('mmpretrain')  # of the head's loss
    from mmpretrain.models import LinearClsHead
    from mmpretrain.models.backbones import MobileOne as Theirs

    torch.manual_seed(0)
    model = torch.nn.Module()
    model.backbone = randomize(Theirs(arch, **OUT))
    model.backbone.eval()  # returns None
    model.head = LinearClsHead(10, model.backbone.stage4[-1].out_channels)
    return model.double()


def check(features, state_dict, arch, tmp_path):
    """Translated weights give the same features at each stage, however loaded; the table is one to one."""
    torch.save(dict(state_dict=state_dict, meta={}), tmp_path / 'theirs.pth')
    torch.manual_seed(1)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = features(x)
    fused = any('reparam' in key for key in state_dict)
    model = MobileOne(arch, deploy=fused, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'theirs.pth')),
                      **OUT)
    model.double().init_weights()
    summary = convert_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth')
    assert (summary['arch'], summary['form']) == (arch, 'deploy' if fused else 'train')
    assert len(summary['left_out']) == 2  # the classifier
    again = MobileOne(arch, deploy=fused, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'ours.pth')),
                      **OUT)
    again.double().init_weights()
    assert len(again.state_dict()) == len(state_dict) - 2
    for candidate in (model, again, reparameterize_model(again)):
        with torch.no_grad():
            for got, theirs in zip(candidate.eval()(x), expected, strict=True):
                torch.testing.assert_close(got, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize('fused', [False, True])
def test_timm(arch, fused, tmp_path):
    model = timms(arch)
    if fused:
        from timm.utils import reparameterize_model as fuse
        model = fuse(model)
    check(lambda x: timms_features(model, x), model.state_dict(), arch, tmp_path)


@pytest.mark.parametrize('fused', [False, True])
def test_mmpretrain(arch, fused, tmp_path):
    model = mmpretrains(arch)
    if fused:
        model.backbone.switch_to_deploy()
    check(model.backbone, model.state_dict(), arch, tmp_path)
