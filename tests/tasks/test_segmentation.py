"""DeepLabV3 and LR-ASPP: configs; DeepLabV3: odd input to head and data, and the tools on drawn and on real images."""
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmseg.evaluation import IoUMetric
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from PIL import Image

from mobileone_mm import ARCHS, MobileOne
from tests.support.paths import ROOT, real_data
from tests.support.reference import randomize, reference_maps
from tests.support.runs import logged, python, run_distributed
from tests.support.segmentation import SHAPES, images, options, segmentor, tiny_options

CONFIGS = sorted((ROOT / 'configs' / 'segmentation').glob('*.py'))
LEAVES = [path for path in CONFIGS if 'shapes' not in path.name]
def losses(model, data):
    return model.train()(**model.data_preprocessor(data, True), mode='loss')


# --- configs

def test_leaves():
    assert {path.stem for path in LEAVES} == {
        f'{head}_mobileone_s{i}_{data}' for head, archs in (('deeplabv3', 5), ('lraspp', 3)) for i in range(archs)
        for data in ('voc12aug', 'ade20k')}
    assert all(len(path.read_text().splitlines()) <= 15 for path in LEAVES)


@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_builds_and_agrees(config):
    register_all_modules()
    cfg = Config.fromfile(config)
    model = MODELS.build(cfg.model)
    channels = model.decode_head.in_channels
    assert model.backbone.out_channels == ((channels, ) if isinstance(channels, int) else tuple(channels))
    assert model.backbone.out_strides == ((4, 8, 16) if config.stem.startswith('lraspp') else (16, ))
    arch = config.stem.split('_')[2]
    assert cfg.model.backbone.arch == ('s4_nose' if arch == 's4' else arch)
    assert not any('.se.' in key for key in model.state_dict())  # the paper's segmentation S4 is without SE, too
    if 'shapes' not in config.stem:
        assert model.decode_head.num_classes == (150 if 'ade' in config.stem else 21)
        assert cfg.model.backbone.init_cfg.checkpoint.endswith(f'/mobileone_{arch}_unfused.pth.tar')
    else:
        assert model.decode_head.num_classes == 6


@pytest.mark.parametrize('config', LEAVES, ids=lambda path: path.stem)
def test_the_recipe(config):
    register_all_modules()
    cfg = Config.fromfile(config)
    warmup, cosine = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == cosine.T_max == 50 and warmup.end == 500 and cosine.eta_min_ratio == 0.01
    ema = [hook for hook in cfg.custom_hooks if hook.type == 'EMAHook']
    assert [hook.momentum for hook in ema] == [5e-4]
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU' and cfg.sync_bn == 'torch'
    # Ten times the LR in the head, by mmengine's own constructor.
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert isinstance(optimizer, torch.optim.AdamW)
    rates = {id(parameter): group['lr'] for group in optimizer.param_groups for parameter in group['params']}
    assert {rates[id(parameter)] for parameter in model.backbone.parameters()} == {1e-4}
    assert {rates[id(parameter)] for parameter in model.decode_head.parameters()} == {1e-3}


def test_s4_without_se_starts_from_the_weights_of_s4(tmp_path):
    torch.manual_seed(0)
    source = MobileOne('s4')
    torch.save({'state_dict': source.state_dict()}, tmp_path / 's4.pth')
    register_all_modules()
    cfg = Config.fromfile(ROOT / 'configs' / 'segmentation' / 'deeplabv3_mobileone_s4_voc12aug.py')
    cfg.merge_from_dict({'model.backbone.init_cfg.checkpoint': str(tmp_path / 's4.pth')})
    model = MODELS.build(cfg.model)
    model.init_weights()
    expected = {key: value for key, value in source.state_dict().items() if '.se.' not in key}
    loaded = model.backbone.state_dict()
    assert loaded.keys() == expected.keys() and all(torch.equal(loaded[key], expected[key]) for key in expected)
    # Not without being asked to.
    with pytest.raises(ValueError, match="These are MobileOne 's4' weights, but the config says arch='s4_nose'"):
        model.backbone.load_state_dict(source.state_dict())


@pytest.mark.parametrize('tool, extra', [('train', []), ('test', [__file__])])
@pytest.mark.parametrize('data, root, wanted, how', [
    ('voc12aug', 'VOC_ROOT', 'ImageSets/Segmentation/val.txt', 'voc_aug.py'),
    ('ade20k', 'ADE_ROOT', 'images/validation', 'sceneparsing.csail.mit.edu'),
])
def test_missing_data_ends_at_once(tmp_path, tool, extra, data, root, wanted, how):
    result = python(f'tools/{tool}.py', f'configs/segmentation/deeplabv3_mobileone_s0_{data}.py', *extra, check=False,
                    **{root: tmp_path / 'nowhere'})
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert 0 < len(result.stderr.partition('Error: ')[2].splitlines()) < 12
    for part in (str(tmp_path / 'nowhere' / wanted), f'{root} is', how, 'deeplabv3_mobileone_s2_shapes.py'):
        assert part in result.stderr


# --- numerics

@pytest.mark.parametrize('contract_dilation', [False, True])
@pytest.mark.parametrize('strides, dilations', [
    ((2, 2, 2, 2), (1, 1, 1, 1)), ((2, 2, 2, 1), (1, 1, 1, 2)), ((2, 2, 1, 1), (1, 1, 2, 4)),
    ((2, 1, 1, 1), (1, 2, 4, 8)),
    ((1, 2, 1, 2), (3, 1, 2, 1)), ((1, 1, 1, 1), (1, 1, 1, 1)), ((2, 2, 2, 2), (2, 2, 3, 4)),
])
def test_fused_equals_unfused(strides, dilations, contract_dilation):
    arch = ARCHS['s0'] | dict(num_blocks=(1, 2, 2, 2), num_se_blocks=(0, 0, 1, 1))
    model = randomize(MobileOne(arch, strides=strides, dilations=dilations, out_indices=(0, 1, 2, 3),
                                contract_dilation=contract_dilation)).double().eval()
    x = torch.randn(1, 3, 70, 53, dtype=torch.float64)
    with torch.no_grad():
        for got, expected in zip(model(x), reference_maps(model, x), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * expected.abs().max().item())


# --- odd input

def test_a_batch_of_one():
    model = segmentor()
    with pytest.raises(ValueError, match='Got a batch of one image.*train_dataloader.batch_size to 2 or more'):
        losses(model, images((64, 64)))
    with torch.no_grad():
        assert model.eval()(**model.data_preprocessor(images((64, 64))), mode='predict')
        assert losses(model, images((64, 64), (64, 64)))['decode.loss_ce'].isfinite()


def test_images_of_any_size():
    """Smaller than the crop: padded, but no loss on padding. Odd sizes: the mask has the image's size."""
    model = segmentor()
    data = model.data_preprocessor(images((37, 51), (40, 33)), True)
    assert data['inputs'].shape == (2, 3, 512, 512)
    for sample, (height, width) in zip(data['data_samples'], [(37, 51), (40, 33)], strict=True):
        labels = sample.gt_sem_seg.data
        assert (labels[:, height:] == 255).all() and (labels[..., width:] == 255).all()
    with torch.no_grad():
        for size in [(37, 51), (1, 1), (513, 17)]:
            result = model.eval()(**model.data_preprocessor(images(size)), mode='predict')[0]
            assert result.pred_sem_seg.shape == size


def test_images_without_any_label():
    """They teach nothing and break nothing."""
    model = segmentor()
    loss = losses(model, images((64, 64), (64, 64), labels=255))
    loss['decode.loss_ce'].backward()
    assert loss['decode.loss_ce'] == 0 and loss['decode.acc_seg'].isfinite()
    assert all(parameter.grad is None or (parameter.grad == 0).all() for parameter in model.parameters())
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=('a', 'b'))
    for truth in ([[255, 255]], [[0, 1]]):
        metric.process({}, [dict(pred_sem_seg=dict(data=torch.tensor([[[0, 1]]])),
                                 gt_sem_seg=dict(data=torch.tensor([truth])))])
    assert metric.evaluate(2)['mIoU'] == 100


# --- runs

def test_shapes_end_to_end(shapes_root, tmp_path):
    work, test = tmp_path / 'work', tmp_path / 'test'
    python('tools/train.py', SHAPES, '--work-dir', work, *options(), SHAPES_ROOT=shapes_root)
    resumed = python('tools/train.py', SHAPES, '--work-dir', work, '--resume', *options(**{'train_cfg.max_epochs': 2}),
                     SHAPES_ROOT=shapes_root)
    assert 'resumed epoch: 1, iter: 8' in resumed.stdout + resumed.stderr
    python('tools/test.py', SHAPES, work / 'epoch_2.pth', '--work-dir', test, '--show-dir', tmp_path / 'drawn',
           '--out', tmp_path / 'masks', *options(), SHAPES_ROOT=shapes_root)
    assert logged(test, 'mIoU') == logged(work, 'mIoU')
    assert len(list((tmp_path / 'drawn').rglob('*.png'))) == 6
    masks = sorted((tmp_path / 'masks').glob('*.png'))
    assert [path.stem for path in masks] == [f'val_{i:04d}' for i in range(6)]
    assert np.array(Image.open(masks[0])).shape == (96, 96) and np.array(Image.open(masks[0])).max() < 6


@pytest.mark.slow
@pytest.mark.parametrize('arch, data', [('s0', 'voc12aug'), ('s4', 'ade20k')])
def test_real_images_end_to_end(arch, data, tmp_path):
    """Train, validate, resume, test; test repeats validation."""
    voc = data == 'voc12aug'
    root = dict(VOC_ROOT=real_data('VOCdevkit') / 'VOC2012') if voc else \
        dict(ADE_ROOT=real_data('ade') / 'ADEChallengeData2016')
    config, work = f'configs/segmentation/deeplabv3_mobileone_{arch}_{data}.py', tmp_path / 'work'
    # Steps so large that each epoch's metrics differ.
    few = {'val_dataloader.dataset.indices': 4, 'test_dataloader.dataset.indices': 4, 'param_scheduler': [],
           'optim_wrapper.optimizer.lr': 0.02, 'custom_hooks.0.momentum': 0.5}
    few |= {f'train_dataloader.dataset.datasets.{i}.indices': 2 for i in (0, 1)} if voc else \
        {'train_dataloader.dataset.indices': 4}
    python('tools/train.py', config, '--work-dir', work, '--auto-scale-lr', *options(**few), **root)
    first = logged(work, 'mIoU')
    resumed = python('tools/train.py', config, '--work-dir', work, '--resume',
                     *options(**few | {'train_cfg.max_epochs': 2}), **root)
    assert 'resumed epoch: 1, iter: 2' in resumed.stdout + resumed.stderr
    expected = logged(work, 'mIoU')
    assert expected != first and set(expected) == {'aAcc', 'mIoU', 'mAcc'}
    python('tools/test.py', config, work / 'epoch_2.pth', '--work-dir', tmp_path / 'test', *options(**few), **root)
    assert logged(tmp_path / 'test', 'mIoU') == expected
    result = python('tools/test.py', config, work / 'epoch_2.pth', '--work-dir', tmp_path / 'tta', '--tta',
                    *options(**few | {'test_dataloader.dataset.indices': 1}), **root)
    assert 'mIoU' in result.stdout


def test_sync_bn():
    """Norms as the config's key converts them for several GPUs, and back: all fold to one function."""
    cfg = Config.fromfile(LEAVES[0])
    model = randomize(segmentor(), 1)
    plain = sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    model = convert_sync_batchnorm(model, cfg.sync_bn).double().eval()
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules()) == plain > 200
    inputs = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = reference_maps(model.backbone, inputs)[-1]
        for form in (model, revert_sync_batchnorm(model)):
            torch.testing.assert_close(form.backbone(inputs)[0], expected, rtol=1e-10, atol=1e-10)


def test_too_few_images_for_a_batch(shapes_root, tmp_path):
    result = python('tools/train.py', SHAPES, '--work-dir', tmp_path,
                    *tiny_options(**{'train_dataloader.dataset.indices': 1}),
                    check=False, SHAPES_ROOT=shapes_root)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert 'Error: 1 images give no batch of 2 (drop_last=True)' in result.stderr


def test_an_empty_folder_is_missing_data(tmp_path):
    for split in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (tmp_path / kind / split).mkdir(parents=True)
    result = python('tools/train.py', 'configs/segmentation/deeplabv3_mobileone_s0_ade20k.py', check=False,
                    ADE_ROOT=tmp_path)
    assert result.returncode == 1 and f'{tmp_path}/images/training (empty)' in result.stderr


@pytest.mark.slow
def test_two_processes(shapes_root, tmp_path):
    root = dict(SHAPES_ROOT=shapes_root)
    run_distributed('tools/dist_train.sh', SHAPES, '--work-dir', tmp_path, *tiny_options(), **root)
    frozen = tiny_options(**{'train_cfg.max_epochs': 2, 'model.backbone.frozen_stages': 1})
    resumed = run_distributed('tools/dist_train.sh', SHAPES, '--work-dir', tmp_path, '--resume', *frozen, **root)
    assert 'resumed epoch: 1, iter: 4' in resumed.stdout + resumed.stderr
    run_distributed('tools/dist_test.sh', SHAPES, tmp_path / 'epoch_2.pth', '--work-dir', tmp_path / 'test',
                    *tiny_options(), **root)
    assert logged(tmp_path / 'test', 'mIoU') == logged(tmp_path, 'mIoU')


@pytest.mark.ops
def test_under_mmsegs_own_tools(shapes_root, tmp_path):
    """From any folder."""
    tools = Path(importlib.util.find_spec('mmseg').origin).parent / '.mim' / 'tools'
    work, more = tmp_path / 'work_dirs' / Path(SHAPES).stem, dict(cwd=tmp_path, SHAPES_ROOT=shapes_root)
    python(tools / 'train.py', ROOT / SHAPES, *tiny_options(), **more)
    python(tools / 'train.py', ROOT / SHAPES, '--resume', *tiny_options(**{'train_cfg.max_epochs': 2}), **more)
    test = [tools / 'test.py', ROOT / SHAPES, work / 'epoch_2.pth', '--work-dir']
    python(*test, tmp_path / 'test', '--out', tmp_path / 'masks', *tiny_options(), **more)
    assert logged(tmp_path / 'test', 'mIoU') == logged(work, 'mIoU')
    assert len(list((tmp_path / 'masks').glob('*.png'))) == 6
    python(*test, tmp_path / 'tta', '--tta', *tiny_options(), **more)
