"""The backbone's contract: sizes, arguments, freezing, registration."""
import pickle
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from mmengine.model import initialize
from mmengine.registry import MODELS, init_default_scope

from mobileone_mm import ARCHS, MobileOne, MobileOneBlock, reparameterize_model
from mobileone_mm.utils.errors import ArgumentError
from tests.support.archs import PARAMETERS
from tests.support.reference import randomize, reference_maps
from tests.support.runs import python

CHANNELS = {
    's0': (48, 128, 256, 1024), 's1': (96, 192, 512, 1280), 's2': (96, 256, 640, 2048), 's3': (128, 320, 768, 2048),
    's4': (192, 448, 896, 2048), 's4_nose': (192, 448, 896, 2048),
}


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize('arch', PARAMETERS)
def test_golden_parameters(arch):
    model = MobileOne(arch)
    blocks = [module for module in model.modules() if isinstance(module, MobileOneBlock)]
    assert (count(model), count(reparameterize_model(model)), len(blocks)) == (*PARAMETERS[arch], 43)
    assert count(MobileOne(arch, deploy=True)) == PARAMETERS[arch][1]


@pytest.mark.parametrize('arch', CHANNELS)
def test_maps(arch):
    model = MobileOne(arch, out_indices=(0, -2, 3)).eval()
    assert model.out_channels == tuple(CHANNELS[arch][i] for i in (0, 2, 3))
    assert model.out_strides == (4, 16, 32)
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 70, 33))
    expected = [(1, CHANNELS[arch][i], -(-70 // s), -(-33 // s)) for i, s in ((0, 4), (2, 16), (3, 32))]
    assert [tuple(m.shape) for m in maps] == expected


def test_se_stands_in_the_last_blocks_of_s4_only():
    with_se = {name for name, module in MobileOne('s4').named_modules() if type(module).__name__ == 'SqueezeExcite'}
    assert with_se == {f'stage3.{i}.se' for i in range(10, 20)} | {'stage4.0.se', 'stage4.1.se'}
    assert count(MobileOne('s4_nose', deploy=True)) + 1_000 * 2048 + 1_000 == pytest.approx(13.198e6, abs=1e3)


def test_custom_arch_and_in_channels():
    arch = dict(num_blocks=(1, 1, 2, 1), width_multipliers=(0.25, 0.25, 0.25, 0.25), num_conv_branches=2,
                num_se_blocks=(0, 0, 1, 0))
    model = MobileOne(arch, in_channels=1, out_indices=(0, 1, 2, 3)).eval()
    assert [m.shape[1] for m in model(torch.randn(1, 1, 32, 32))] == [16, 32, 64, 128]


ERRORS = [
    (dict(arch='s5'), "Unknown arch 's5'. Allowed are 's0', 's1', 's2', 's3', 's4', 's4_nose'"),
    (dict(arch=dict(num_blocks=(1, 1, 1, 1))), "exactly the keys num_blocks, width_multipliers, num_conv_branches"),
    (dict(arch=3), 'arch must be a name .* got 3'),
    (dict(arch=ARCHS['s0'] | dict(num_blocks=(1, 1))), r"arch\['num_blocks'\] must be 4 values"),
    (dict(arch=ARCHS['s0'] | dict(width_multipliers=(0, 1, 1, 1))),
     r"arch\['width_multipliers'\] must be positive numbers"),
    (dict(arch=ARCHS['s0'] | dict(width_multipliers=('a', 1, 1, 1))), 'must be positive numbers .* got .*a'),
    (dict(arch=ARCHS['s0'] | dict(width_multipliers=(float('nan'), 1, 1, 1))), 'must be positive numbers .* got .*nan'),
    (dict(arch=ARCHS['s0'] | dict(num_conv_branches=0)), r"arch\['num_conv_branches'\] must be an int of at least 1"),
    (dict(arch=ARCHS['s0'] | dict(num_se_blocks=(3, 0, 0, 0))),
     r"arch\['num_se_blocks'\] of a stage of 2 blocks must be an int in 0..2, got 3"),
    (dict(out_indices=(4, )), r'out_indices \(stage1 to stage4, .*\) must be an int in -4..3, got 4'),
    (dict(out_indices=()), r'out_indices must be .* got \(\)'),
    (dict(out_indices=2), 'out_indices must be .* got 2'),
    (dict(strides=(2, 2, 2)), r'strides must be 4 values.* each 1 or 2; got \(2, 2, 2\)'),
    (dict(strides=(2, 2, 2, 4)), 'strides must be 4 values.* each 1 or 2'),
    (dict(dilations=(1, 1, 1)), 'dilations must be 4 values'),
    (dict(dilations=(1, 1, 1, 0)), 'dilations must be an int of at least 1, got 0'),
    (dict(frozen_stages=5), r'frozen_stages \(-1: none, 0: the stem, .*\) must be an int in -1..4, got 5'),
    (dict(norm_cfg=dict(type='GN', num_groups=4)),
     "cannot fold the norm .*GN.* Allowed are the types BN, BN2d, SyncBN"),
    (dict(norm_cfg=dict(type='BN', track_running_stats=False)), 'with running statistics'),
    (dict(norm_cfg=None), 'cannot fold the norm None'),
    (dict(norm_cfg=dict(type='GN'), deploy=True), 'cannot fold the norm'),
    (dict(in_channels=0), 'in_channels must be an int of at least 1, got 0'),
    (dict(arch=ARCHS['s0'] | dict(num_blocks=(1., 1, 1, 1))), 'must be an int of at least 1, got 1.0'),
    (dict(arch=ARCHS['s0'] | dict(num_blocks=(True, 1, 1, 1))), 'must be an int of at least 1, got True'),
    (dict(arch=ARCHS['s0'] | dict(width_multipliers=(0.01, 1, 1, 1))), 'leave at least one channel of .* got'),
    (dict(arch=ARCHS['s0'] | dict(width_multipliers=(True, 1, 1, 1))), 'must be positive numbers'),
    (dict(frozen_stages=True), 'frozen_stages .* must be an int in -1..4, got True'),
    (dict(in_channels=3.), 'in_channels must be an int of at least 1, got 3.0'),
    (dict(out_indices=(True, )), 'out_indices .* must be an int in -4..3, got True'),
    (dict(out_indices='3'), "out_indices must be a sequence of ints .* got '3'"),
    (dict(strides=(2, 2, 2, True)), 'strides must be 4 values.* each 1 or 2'),
    (dict(strides=(2, 2, 2, 1.)), 'strides must be 4 values.* each 1 or 2'),
    (dict(dilations=(1, 1, 1, 2.)), 'dilations must be an int of at least 1, got 2.0'),
    (dict(act_cfg=dict(inplace=True)), 'act_cfg must be None or a dict with a type'),
    (dict(act_cfg='ReLU'), "act_cfg must be None or a dict with a type, .* got 'ReLU'"),
    (dict(init_cfg=dict(type='Pretrained')), 'needs checkpoint, a path or an URL; got None'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='a.pth', prefix='')), "prefix of init_cfg is .* got ''"),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='a.pth', prefix='.')), r"prefix of init_cfg is .* got '\.'"),
    (dict(init_cfg=[dict(type='Pretrained', checkpoint='a.pth', prefix='')]), 'prefix of init_cfg is'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='a.pth', expnad=True)), 'takes .*expand.*; got expnad'),
    (dict(init_cfg=[dict(type='NearIdentity'), dict(type='Pretrained', checkpoint='a.pth', expand=True)]),
     'stands alone, got it in a list'),
    (dict(init_cfg=[dict(type='Pretrained', checkpoint='a.pth', drop_se=True), dict(type='NearIdentity')]),
     'stands alone, got it in a list'),
    (dict(init_cfg='a.pth'), "init_cfg must be None, a dict or a list of dicts, got 'a.pth'"),
    (dict(init_cfg=(dict(type='NearIdentity'), )), 'init_cfg must be None, a dict or a list'),
    (dict(init_cfg=dict(checkpoint='a.pth')), 'is a dict with a type'),
    (dict(init_cfg=['a.pth']), "is a dict with a type, .* got 'a.pth'"),
    (dict(init_cfg=dict(type='Pretraind', checkpoint='a.pth')), "no initialization 'Pretraind'. Did you mean Pretrain"),
    (dict(init_cfg=dict(type='NearIdentity', gama=0.1)), "refused by its type: .*'gama'"),
    (dict(init_cfg=dict(type='PretrainedInit', checkpoint='a.pth', exp=True)), 'got exp'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='a.pth', expand=True), norm_cfg=dict(type='BN', affine=False)),
     'expand=True in init_cfg needs norms with weight and bias'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='a.pth', trust='False')), 'trust of init_cfg must be'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='a.pth', expand='no')), 'expand of init_cfg must be'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='')), "needs checkpoint, a path or an URL; got ''"),
    (dict(init_cfg=dict(type='NearIdentity', gamma='x')), "gamma must be a number, got 'x'"),
    (dict(norm_cfg=dict(type='BN', eps='a')), "eps must be a number, got 'a'"),
    (dict(norm_eval='False'), "norm_eval must be True or False, got 'False'"),
    (dict(deploy=1), 'deploy must be True or False, got 1'),
    (dict(with_cp='no'), 'with_cp must be True or False'),
    (dict(fast_train=None), 'fast_train must be True or False'),
    (dict(contract_dilation=1), 'contract_dilation must be True or False'),
    (dict(act_cfg=dict(type='ReLU', inplce=True)), "act_cfg=.* cannot be built: .*'inplce'"),
    (dict(act_cfg=dict(type='RelU')), 'act_cfg=.* cannot be built: .*RelU'),
    (dict(norm_cfg=dict(type='BN', epsilon=1e-3)), "norm_cfg=.* cannot be built: .*'epsilon'"),
]


@pytest.mark.parametrize('kwargs, message', ERRORS, ids=lambda v: v[:40] if isinstance(v, str) else None)
def test_errors(kwargs, message):
    with pytest.raises(ArgumentError, match=message):
        MobileOne(**kwargs)


@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 4, 32, 32)])
def test_wrong_input(shape):
    with pytest.raises(ValueError, match=r'takes \(N, 3, H, W\), got'):
        MobileOne('s0')(torch.randn(shape))


@pytest.mark.parametrize('kwargs, message', [
    (dict(kernel_size=2), 'kernel_size must be odd, got 2'),
    (dict(stride=2, with_skip=True), r'with_skip=True needs .* stride=2'),
    (dict(num_conv_branches=0), 'num_conv_branches must be an int of at least 1, got 0'),
    (dict(num_conv_branches=True), 'num_conv_branches must be an int of at least 1, got True'),
    (dict(dilation=0), 'dilation must be an int of at least 1, got 0'),
    (dict(act_cfg={}), 'act_cfg must be None or a dict with a type'),
    (dict(groups=3), 'groups must divide in_channels and out_channels, got groups=3, in_channels=8'),
    (dict(with_skip='yes'), "with_skip must be True or False, got 'yes'"),
    (dict(with_se=1), 'with_se must be True or False, got 1'),
    (dict(init_cfg=dict(type='NearIdentity'), norm_cfg=dict(type='BN', affine=False)), 'have none'),
])
@pytest.mark.parametrize('deploy', [False, True])
def test_block_errors(kwargs, message, deploy):
    with pytest.raises(ArgumentError, match=message):
        MobileOneBlock(8, 8, **dict(kernel_size=3) | kwargs, deploy=deploy)


def test_near_identity_needs_norms_with_a_weight():
    norm_cfg, init_cfg = dict(type='BN', affine=False), dict(type='NearIdentity')
    message = r'NearIdentity.* those of this norm_cfg have none.* Leave affine=False out'
    with pytest.raises(ArgumentError, match=message):
        MobileOne('s0', norm_cfg=norm_cfg, init_cfg=init_cfg)
    model = MobileOne('s0', norm_cfg=norm_cfg)
    with pytest.raises(ArgumentError, match=r'NearIdentity .* those of stage1\.1 have none. Leave affine=False out'):
        initialize(model, init_cfg)  # as a detector's own init_cfg does


def test_a_dilated_backbone_has_the_checkpoints_branches():
    plain = MobileOne('s0')
    dilated = MobileOne('s0', strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4))
    assert plain.state_dict().keys() == dilated.state_dict().keys()
    assert dilated.out_strides == (8, )
    assert dilated.stage4[0].skip_branch is None
    convs = [m for m in dilated.stage3.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert {(c.dilation, c.padding) for c in convs} == {((2, 2), (2, 2))}


@pytest.mark.parametrize('size', [(256, 256), (64, 64), (65, 97), (50, 31), (1, 1)])
@pytest.mark.parametrize('strides, dilations, factor',
                         [((2, 2, 2, 1), (1, 1, 1, 2), 2), ((2, 2, 1, 1), (1, 1, 2, 4), 4)])
def test_contracted_dilation_keeps_the_pretrained_features(size, strides, dilations, factor):
    """Without SE: the dilated map, subsampled, is the strided one, also at borders and for odd sizes."""
    torch.manual_seed(0)
    arch = ARCHS['s0'] | dict(num_blocks=(1, 1, 2, 2))
    plain = randomize(MobileOne(arch)).double().eval()
    dilated = MobileOne(arch, strides=strides, dilations=dilations, contract_dilation=True).double().eval()
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        strided, subsampled = plain(x)[0], dilated(x)[0][..., ::factor, ::factor]
    torch.testing.assert_close(subsampled, strided, rtol=0, atol=1e-10)


@pytest.mark.parametrize('frozen_stages', range(-1, 5))
def test_frozen_stages(frozen_stages):
    model = MobileOne('s0', frozen_stages=frozen_stages)
    for _ in range(2):
        for i in range(5):
            stage = getattr(model, f'stage{i}')
            frozen = i <= frozen_stages
            assert {p.requires_grad for p in stage.parameters()} == {not frozen}
            assert {m.training for m in stage.modules()} == {not frozen}
        assert model.eval() is model
        assert model.train() is model


def gradients(model, x, forward):
    model.zero_grad()
    x = x.clone().requires_grad_()
    maps = forward(x)
    sum((m * torch.linspace(-1, 1, m.numel(), dtype=m.dtype).reshape(m.shape)).sum() for m in maps).backward()
    return [x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize('mode', ['norm_eval', 'eval', 'frozen'])
def test_gradients_of_frozen_norms_are_exact(mode):
    """To the input and to every branch parameter, as in the branch form."""
    torch.manual_seed(0)
    arch = ARCHS['s4'] | dict(num_blocks=(1, 2, 2, 1), num_se_blocks=(0, 0, 1, 1), num_conv_branches=2)
    options = dict(norm_eval=mode == 'norm_eval', frozen_stages=1 if mode == 'frozen' else -1)
    model = randomize(MobileOne(arch, out_indices=(0, 1, 2, 3), **options)).double()
    model.train(mode == 'norm_eval')
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    expected = gradients(model, x, lambda x: reference_maps(model, x))
    scale = max(g.abs().max() for g in expected)
    for got, gradient in zip(gradients(model, x, model), expected, strict=True):
        torch.testing.assert_close(got / scale, gradient / scale, rtol=0, atol=1e-10)


def test_with_cp_changes_neither_gradients_nor_statistics():
    torch.manual_seed(0)
    arch = ARCHS['s0'] | dict(num_blocks=(1, 1, 2, 1))
    plain = MobileOne(arch).double()
    recomputing = MobileOne(arch, with_cp=True).double()
    recomputing.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = gradients(plain, x, plain)
    for got, gradient in zip(gradients(recomputing, x, recomputing), expected, strict=True):
        torch.testing.assert_close(got, gradient, rtol=0, atol=1e-10)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(recomputing.state_dict()[key], value, rtol=0, atol=1e-12)


def seen_layouts(model):
    """A list that gets, at each forward pass, whether a stage's input is in channels_last."""
    layouts = []
    model.stage2.register_forward_pre_hook(
        lambda module, x: layouts.append(x[0].is_contiguous(memory_format=torch.channels_last)))
    return layouts


@pytest.mark.parametrize('deploy', [False, True])
def test_channels_last_inside_on_a_cpu(deploy):
    """A contiguous input gives contiguous outputs with the same values."""
    model = randomize(MobileOne('s4', out_indices=(0, 3))).eval()
    model = reparameterize_model(model) if deploy else model
    layouts = seen_layouts(model)
    x = torch.randn(2, 3, 64, 64)
    model.channels_last = False
    expected = model(x)
    model.channels_last = None
    with_gradients = model(x)
    with torch.no_grad():
        got, in_their_layout = model(x), model(x.to(memory_format=torch.channels_last))
        in_double = model.double()(x.double())
    assert layouts == [False, True, True, True, False]
    for a, b, c, d, e in zip(expected, got, in_their_layout, in_double, with_gradients, strict=True):
        assert b.is_contiguous() and c.is_contiguous(memory_format=torch.channels_last) and not c.is_contiguous()
        scale = a.abs().max()
        for other in (b, c, d.float(), e):
            torch.testing.assert_close(other / scale, a / scale, rtol=0, atol=1e-5)
        b.view(2, -1)  # as some heads do


@pytest.mark.parametrize('norm_eval', [False, True])
@pytest.mark.parametrize('channels_last', [None, False, True])
def test_channels_last_inside_in_training(channels_last, norm_eval):
    model = MobileOne('s0', out_indices=(0, 3), norm_eval=norm_eval, channels_last=channels_last).train()
    layouts = seen_layouts(model)
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(2, 3, 64, 64, dtype=dtype)
        for maps in (model.to(dtype)(x), deepcopy(model)(x)):
            assert all(m.is_contiguous() for m in maps)
            sum(m.sum() for m in maps).backward()
        assert all(p.grad.is_contiguous() for p in model.parameters() if p.grad is not None)
    with torch.autocast('cpu', torch.bfloat16):
        maps = model.float()(x.float())
    assert all(m.is_contiguous() for m in maps)
    assert layouts == {None: [True, True, False, False, True], False: [False] * 5, True: [True] * 5}[channels_last]


def test_channels_last_inside_for_gray_images():
    model = randomize(MobileOne('s1', in_channels=1, out_indices=(0, 3))).eval()
    layouts = seen_layouts(model)
    x = torch.randn(2, 1, 64, 96)
    with torch.no_grad():
        got = model(x)
        model.channels_last = False
        expected = model(x)
    assert layouts == [True, False] and all(m.is_contiguous() for m in got)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def test_a_pickled_model_of_an_earlier_version():
    model = MobileOne('s1')
    del model.__dict__['channels_last']
    assert pickle.loads(pickle.dumps(model)).eval()(torch.zeros(1, 3, 32, 32))[0].shape == (1, 1280, 1, 1)


def test_channels_last_is_a_bool_or_none():
    with pytest.raises(ArgumentError, match='channels_last, if not None, must be True or'):
        MobileOne('s0', channels_last='False')


def test_training_in_channels_last_on_a_cpu():
    """In a subprocess: there the stem's strided 1x1 convolution corrupts the heap of torch 2.13."""
    code = ('import torch, mobileone_mm; m = mobileone_mm.MobileOne("s0").to(memory_format=torch.channels_last); '
            'x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last); '
            '[m(x)[0].sum().backward() for _ in range(3)]; print("done")')
    assert 'done' in python('-c', code).stdout


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg'])
def test_registered_for_every_scope(scope):
    import importlib
    registry = MODELS if scope == 'mmengine' else importlib.import_module(f'{scope}.registry').MODELS
    init_default_scope(scope)
    try:
        assert type(registry.build(dict(type='MobileOne', arch='s1'))) is MobileOne
    finally:
        init_default_scope('mmengine')


def test_named_with_its_scope(tiny_detector, tiny_segmentor, shapes_root, tmp_path):
    """As configs that mix libraries do."""
    for (config, checkpoint), name in ((tiny_detector, 'mmdet.MobileOne'), (tiny_segmentor, 'mmseg.MobileOne')):
        python('tools/test.py', config, checkpoint, '--work-dir', tmp_path, '--cfg-options',
               f'model.backbone.type={name}', SHAPES_ROOT=shapes_root)


def test_near_identity_init():
    model = MobileOne('s0', init_cfg=dict(type='NearIdentity', gamma=0.1))
    model.init_weights()
    for block in (module for module in model.modules() if isinstance(module, MobileOneBlock)):
        expected = 1 if block.skip_branch is None else 0.1
        assert all((branch.bn.weight == expected).all() for branch in block.conv_branches)
        assert block.skip_branch is None or (block.skip_branch.weight == 1).all()


def test_import_is_light():
    code = ('import sys, mobileone_mm; '
            'heavy = {"mmdet", "mmseg", "mmpretrain", "torchvision", "onnx", "matplotlib.pyplot"} & set(sys.modules); '
            'assert not heavy, heavy')
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
