"""Pretraining: the paper's recipe as it runs, weights for all configs, classifiers of others."""
import math
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mobileone_mm import MobileOne
from mobileone_mm.arch import stage_widths
from mobileone_mm.benchmark.model_card import logged_values
from mobileone_mm.checkpoint.layouts import as_classifier
from mobileone_mm.datasets.check import check_data
from mobileone_mm.utils.errors import CheckpointError, MissingDataError
from tests.support.archs import ARCH_PARAMS
from tests.support.layouts import TO_APPLE, TO_TIMM, rename
from tests.support.paths import ROOT, real_data
from tests.support.reference import randomize
from tests.support.runs import logged, python, run_distributed

pretraining = pytest.importorskip('mobileone_mm.tasks.pretraining')

SHAPES = 'configs/pretraining/mobileone_s2_shapes.py'
LEAVES = [f's{i}' for i in range(5)]
TINY = dict(num_blocks=(1, 1, 1, 1), width_multipliers=(0.25, 0.125, 0.0625, 0.0625), num_conv_branches=1,
            num_se_blocks=(0, 0, 0, 0))
NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)


def load(arch):
    return Config.fromfile(ROOT / 'configs' / 'pretraining' / f'mobileone_{arch}_in1k.py')


def build(cfg):
    init_default_scope('mmpretrain')
    return MODELS.build(cfg.model)


def shrink(cfg):
    """Give a config's model the tiny arch, and its head what follows from that."""
    model, channels = cfg.model, tuple(stage_widths(TINY)[-2:])
    model.backbone.arch = TINY
    if 'bbox_head' in model:
        model.neck.in_channels = channels
        model.neck.out_channels = model.bbox_head.in_channels = (*channels, *model.neck.out_channels[2:])
    else:
        (model.decode_head if 'decode_head' in model else model.head).in_channels = channels[-1]


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """Four images in ImageNet's layout."""
    root = tmp_path_factory.mktemp('imagenet')
    for split in ('train', 'val'):
        (root / split).mkdir()
        for i in range(4):
            image = np.random.default_rng(i).integers(0, 255, (240, 260, 3), np.uint8)
            cv2.imwrite(str(root / split / f'{i}.png'), image)
        (root / 'meta').mkdir(exist_ok=True)
        (root / 'meta' / f'{split}.txt').write_text(''.join(f'{i}.png {i}\n' for i in range(4)))
    return root


@pytest.mark.parametrize('arch', LEAVES)
def test_the_papers_numbers(arch):
    cfg = load(arch)
    assert (cfg.model.backbone.arch, cfg.train_cfg.max_epochs) == (arch, 300)
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 256
    assert cfg.custom_hooks[0].type == 'EMAHook' and cfg.custom_hooks[0].momentum == pytest.approx(1 - 0.9995)
    model = build(cfg)
    assert type(model.backbone) is MobileOne and model.head.fc.in_features == model.backbone.out_channels[0]
    assert (model.head.loss_module.label_smooth_val, model.head.fc.out_features) == (0.1, 1000)


class Recorder(Hook):
    """Records what a run does in each epoch."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.epochs = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = runner.optim_wrapper.param_groups
        # Of tensors of one dimension, all but the classifier's bias belong to norms.
        norms = {group['weight_decay'] for group in groups
                 if group['params'][0].dim() == 1 and len(group['params'][0]) != 1000}
        others = {group['weight_decay'] for group in groups if group['params'][0].dim() > 1}
        augment = [step.strength for step in runner.train_dataloader.dataset.pipeline.transforms
                   if isinstance(step, pretraining.ProgressiveAutoAugment)]
        self.epochs[runner.epoch] = dict(
            lr=groups[0]['lr'], norms=norms, others=others, augment=augment,
            size={tuple(image.shape[1:]) for image in data_batch['inputs']})


def recorded(arch, imagenet, work_dir, monkeypatch, **changes):
    """Run a whole config in small: a tiny arch, one iteration per epoch."""
    monkeypatch.setenv('IN1K_ROOT', str(imagenet))
    cfg = load(arch)
    shrink(cfg)
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.work_dir = str(work_dir)
    cfg.train_cfg.val_interval = 1000
    cfg.default_hooks.checkpoint.interval = 150
    cfg.merge_from_dict(dict(log_level='ERROR', randomness=dict(seed=0)) | changes)
    runner = Runner.from_cfg(cfg)
    recorder = Recorder()
    runner.register_hook(recorder, 'VERY_LOW')
    runner.train()
    return recorder.epochs


def weight_decay(epoch):
    return 1e-5 + (1e-4 - 1e-5) * (1 + math.cos(math.pi * epoch / 300)) / 2


@pytest.mark.parametrize('arch, strengths', [pytest.param('s0', None, marks=pytest.mark.slow), ('s2', (0.3, 0.6, 1.0))])
def test_regularization_relaxes_in_the_runner(arch, strengths, imagenet, tmp_path, monkeypatch):
    """Sizes, strengths and weight decay of all 300 epochs; epochs 38 and 113, from 0, begin a phase."""
    epochs = recorded(arch, imagenet, tmp_path, monkeypatch)
    assert len(epochs) == 300
    for epoch, got in epochs.items():
        phase = (epoch >= 38) + (epoch >= 113)
        assert got['size'] == {((160, 192, 224)[phase], ) * 2}, epoch
        assert got['augment'] == ([strengths[phase]] if strengths else []), epoch
        assert got['norms'] == {0}, epoch
        value, = got['others']
        assert value == pytest.approx(weight_decay(epoch), rel=1e-9), epoch
    # Values of that curve from the notes on the paper.
    for epoch, value in ((0, 1e-4), (38, 9.65e-5), (113, 7.20e-5), (150, 5.5e-5), (200, 3.25e-5), (250, 1.60e-5)):
        assert next(iter(epochs[epoch]['others'])) == pytest.approx(value, rel=2e-3)
    assert epochs[0]['lr'] == pytest.approx(1e-4) and epochs[5]['lr'] == pytest.approx(0.1, rel=1e-3)
    assert epochs[299]['lr'] < 1e-4
    if strengths:  # a resumed run is in the same phase
        epochs = recorded(arch, imagenet, tmp_path, monkeypatch, resume=True, load_from=str(tmp_path / 'epoch_150.pth'))
        assert min(epochs) == 150 and epochs[150]['augment'] == [1.0] and epochs[150]['size'] == {(224, 224)}
        assert list(epochs[150]['others']) == [pytest.approx(weight_decay(150))]


def test_workers_get_the_next_phase(shapes_root, tmp_path, monkeypatch):
    """Persistent workers have a copy of the pipeline, and must be started again."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    cfg = Config.fromfile(ROOT / SHAPES)
    shrink(cfg)
    assert cfg.train_dataloader.persistent_workers and cfg.train_dataloader.num_workers == 1
    cfg.merge_from_dict(dict(work_dir=str(tmp_path), log_level='ERROR') | NO_VALIDATION)
    runner = Runner.from_cfg(cfg)
    recorder = Recorder()
    runner.register_hook(recorder, 'VERY_LOW')
    runner.train()
    assert [recorder.epochs[epoch]['size'] for epoch in range(5)] == [{(size, size)} for size in (48, 56, 64, 64, 64)]
    assert [recorder.epochs[epoch]['augment'] for epoch in range(4)] == [[0.3], [0.6], [1.0], [1.0]]


def image():
    return np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)


def augmented(transform, seeds=40):
    results = []
    for seed in range(seeds):
        np.random.seed(seed)
        results.append(transform(dict(img=image()))['img'])
    return results


def test_strength_of_autoaugment():
    theirs = augmented(pretraining.AutoAugment('imagenet'))
    assert all(np.array_equal(a, b) for a, b in zip(
        theirs, augmented(pretraining.ProgressiveAutoAugment('imagenet', strength=1)), strict=True))
    assert all(np.array_equal(a, image()) for a in augmented(pretraining.ProgressiveAutoAugment(strength=0)))
    change = [np.mean([np.abs(a.astype(int) - image()).mean() for a in augmented(
        pretraining.ProgressiveAutoAugment(strength=strength))]) for strength in (0.3, 0.6, 1)]
    assert 0 < change[0] < change[1] < change[2]
    operation = dict(type='Posterize', bits=4, prob=0.4)
    assert pretraining.ProgressiveAutoAugment([[operation]], 0.5).policies[0][0]['bits'] == 6 and operation['bits'] == 4


@pytest.mark.parametrize('arguments, message', [
    (dict(strength=1.5), 'strength must be a number from 0 to 1, got 1.5'),
    (dict(strength='0.5'), "strength must be a number from 0 to 1, got '0.5'"),
    (dict(policies='cifar'), r"policies must be one of \['imagenet'\], or a list, got 'cifar'"),
])
def test_bad_augmentation(arguments, message):
    with pytest.raises(ValueError, match=message):
        pretraining.ProgressiveAutoAugment(**arguments)


def test_other_libraries_see_no_stand_in():
    """Where torchvision is absent it stays absent; what needs it says so."""
    code = '''
import importlib.util, sys, mobileone_mm.tasks.pretraining
from mmpretrain.registry import TRANSFORMS
if importlib.util.find_spec('torchvision') is None:
    assert not any(name.startswith('torchvision') for name in sys.modules)
    try:
        TRANSFORMS.build(dict(type='mmpretrain.MAERandomResizedCrop', size=8))
    except RuntimeError as error:
        assert 'needs torchvision' in str(error), error
    else:
        raise AssertionError
'''
    python('-W', 'ignore', '-c', code)


def test_without_mmpretrain(tmp_path):
    (tmp_path / 'mmpretrain.py').write_text("raise ModuleNotFoundError('No module named mmpretrain')")
    result = python('tools/train.py', 'configs/pretraining/mobileone_s0_in1k.py', check=False,
                    PYTHONPATH=f'{tmp_path}:{ROOT}')
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert 'This needs mmpretrain' in result.stderr and 'pip install onedl-mmpretrain' in result.stderr


def test_missing_imagenet(tmp_path):
    for tool, extra in (('train', []), ('test', [__file__])):
        result = python(f'tools/{tool}.py', 'configs/pretraining/mobileone_s2_in1k.py', *extra, check=False,
                        IN1K_ROOT=tmp_path / 'nowhere')
        assert result.returncode == 1 and 'Traceback' not in result.stderr
        for part in (str(tmp_path / 'nowhere' / 'val'), 'IN1K_ROOT is', 'image-net.org', 'mobileone_s2_shapes.py'):
            assert part in result.stderr


@pytest.mark.parametrize('folders, listed, message', [
    (['n01440764', 'n01443537'], None, '1000 folders such as n01440764 in {val}, which has 2 of them and 0 others'),
    ([], None, '1000 folders such as n01440764 in {val}, which has 0 of them and 0 others'),
    (map(str, range(1000)), None, '1000 folders such as n01440764 in {val}, which has 0 of them and 1000 others'),
    ([], 'absent.JPEG 5\n', '{val}/absent.JPEG, the first of'),
    ([], 'image.JPEG 5\n', None),
    ([f'n{i:08}' for i in range(1000)], None, None),
], ids=['two folders', 'flat', 'numbers', 'absent image', 'good list', 'good folders'])
def test_layouts_of_imagenet(folders, listed, message, tmp_path, monkeypatch):
    """mmpretrain numbers the existing folders: with others than the 1000 synsets, classes would differ."""
    val = tmp_path / 'val'
    for name in folders:
        (val / name).mkdir(parents=True)
    val.mkdir(exist_ok=True)
    (val / 'image.JPEG').write_bytes(b'x')
    if listed:
        (tmp_path / 'meta').mkdir()
        (tmp_path / 'meta' / 'val.txt').write_text(listed)
    monkeypatch.setenv('IN1K_ROOT', str(tmp_path))
    if message is None:
        check_data(load('s0'), ('test', ))
    else:
        with pytest.raises(MissingDataError, match='IN1K_ROOT is') as error:
            check_data(load('s0'), ('test', ))
        assert message.format(val=val) in str(error.value)


@pytest.fixture(scope='module')
def pretrained(shapes_root, tmp_path_factory):
    """Work dir of a small run with all three phases."""
    work = tmp_path_factory.mktemp('pretrained')
    python('-W', 'ignore', 'tools/train.py', SHAPES, '--work-dir', work, '--cfg-options',
           'train_dataloader.batch_size=8',
           'default_hooks.checkpoint.interval=5', 'train_cfg.val_interval=5', SHAPES_ROOT=shapes_root)
    return work


def evaluate(config, checkpoint, work_dir, *arguments, **env):
    """The metrics of tools/test.py: top-1, and top-5 on request."""
    result = python('-W', 'ignore', 'tools/test.py', config, checkpoint, '--work-dir', work_dir, *arguments,
                    '--cfg-options',
                    'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False', **env)
    return [float(value) for value in re.findall(r'accuracy/top\d: ([\d.]+)', result.stdout + result.stderr)]


def test_pretraining_starts_a_detector(pretrained, shapes_root, tmp_path):
    """The averaged weights, all of them; the classifier is left out; test repeats validation."""
    saved = torch.load(pretrained / 'epoch_5.pth', weights_only=False)
    averaged, raw = saved['state_dict'], saved['ema_state_dict']
    backbone = MobileOne('s2', init_cfg=dict(type='Pretrained', checkpoint=str(pretrained / 'epoch_5.pth')))
    backbone.init_weights()
    assert backbone.state_dict().keys() == {key[9:] for key in averaged if key.startswith('backbone.')}
    assert all(torch.equal(value, averaged[f'backbone.{key}']) for key, value in backbone.state_dict().items())
    assert any(not torch.equal(value, raw[f'module.backbone.{key}']) for key, value in backbone.state_dict().items())
    python('tools/train.py', 'configs/detection/ssdlite_mobileone_s2_shapes.py', '--work-dir', tmp_path / 'det',
           '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
           'model.backbone.init_cfg.type=Pretrained',
           f'model.backbone.init_cfg.checkpoint={pretrained / "epoch_5.pth"}', SHAPES_ROOT=shapes_root)
    assert 'coco/bbox_mAP' in logged(tmp_path / 'det', 'coco/bbox_mAP')
    accuracy = evaluate(SHAPES, pretrained / 'epoch_5.pth', tmp_path / 'test', '--out', tmp_path / 'out.pkl',
                        '--show-dir',
                        tmp_path / 'images', SHAPES_ROOT=shapes_root)
    assert accuracy == [pytest.approx(logged_values(pretrained, 'accuracy/top1')[-1], abs=1e-3)]
    assert (tmp_path / 'out.pkl').stat().st_size and len(list((tmp_path / 'images').iterdir())) == 6


@pytest.mark.slow
def test_deploy_form_of_a_classifier(pretrained, shapes_root, tmp_path):
    checkpoint = pretrained / 'epoch_5.pth'
    python('-W', 'ignore', 'tools/reparameterize.py', SHAPES, checkpoint, tmp_path / 'deploy.pth')
    expected, got = (evaluate(SHAPES, file, tmp_path / 'test', SHAPES_ROOT=shapes_root)
                     for file in (checkpoint, tmp_path / 'deploy.pth'))
    assert got == expected and len(got) == 1


LEAF_CONFIGS = [path for folder in ('detection', 'segmentation')
                for path in sorted((ROOT / 'configs' / folder).glob('*.py')) if 'shapes' not in path.stem]


@pytest.mark.parametrize('arch', ARCH_PARAMS)
def test_every_config_starts_from_it(arch, tmp_path):
    """By its init_cfg alone, strictly; S4 without SE leaves out the gates, as with Apple's weights."""
    weights = randomize(build(load(arch))).state_dict()
    torch.save(dict(state_dict=weights, meta={}), tmp_path / 'pretrained.pth')
    configs = [path for path in LEAF_CONFIGS if f'_{arch}' in path.stem]
    assert {'ssdlite', 'deeplabv3'} <= {path.stem.split('_')[0] for path in configs}
    for path in configs:
        cfg = Config.fromfile(path)
        cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'pretrained.pth')
        init_default_scope(cfg.default_scope)
        backbone = MODELS.build(cfg.model.backbone)
        assert type(backbone) is MobileOne
        backbone.init_weights()
        for key, value in backbone.state_dict().items():
            assert torch.equal(value, weights[f'backbone.{key}']), (path, key)


def test_apples_weights_through_the_config(tmp_path):
    """20 and 24 of 25 with the config's pipeline and Apple's classifier."""
    checkpoint = real_data('mobileone_s0_fused') / 'mobileone_s0_fused.pth'
    assert evaluate('configs/pretraining/mobileone_s0_in1k.py', checkpoint, tmp_path,
                    IN1K_ROOT=real_data('imagenet_val25')) == [80, 96]


def check_logits(state_dict, x, expected, arch='s1'):
    model = build(load(arch)).double().eval()
    model.load_state_dict(as_classifier(state_dict, model))
    with torch.no_grad():
        torch.testing.assert_close(model(x, mode='tensor'), expected, rtol=0, atol=1e-8 * expected.abs().max().item())


def test_mmpretrains_classifier():
    cfg = load('s1')
    cfg.model.backbone = dict(type='mmpretrain.MobileOne', arch='s1', out_indices=(3, ))
    torch.manual_seed(0)
    theirs = randomize(build(cfg)).double()
    theirs.eval()  # its backbone fuses when asked to
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        check_logits(theirs.state_dict(), x, theirs(x, mode='tensor'))


def test_timms_classifier():
    timm = pytest.importorskip('timm', exc_type=ImportError)
    torch.manual_seed(0)
    theirs = randomize(timm.create_model('mobileone_s1')).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        check_logits(theirs.state_dict(), x, theirs(x))


@pytest.mark.parametrize('layout', ['Apple', 'timm'])
def test_classifiers_in_foreign_layouts(layout):
    torch.manual_seed(0)
    model = randomize(build(load('s1'))).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x, mode='tensor')
    backbone = {key[9:]: value for key, value in model.state_dict().items() if key.startswith('backbone.')}
    prefix = 'linear.' if layout == 'Apple' else 'head.fc.'
    renamed = rename(backbone, TO_APPLE if layout == 'Apple' else TO_TIMM, classifier=prefix)
    renamed |= {f'{prefix}weight': model.head.fc.weight, f'{prefix}bias': model.head.fc.bias}
    check_logits(renamed, x, expected)


@pytest.mark.slow
def test_another_number_of_classes_is_refused(shapes_root, tmp_path):
    torch.save(randomize(build(load('s2'))).state_dict(), tmp_path / 'in1k.pth')
    result = python('-W', 'ignore', 'tools/test.py', SHAPES, tmp_path / 'in1k.pth',
                    '--work-dir', tmp_path, check=False, SHAPES_ROOT=shapes_root)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert 'head.fc.weight (1000, 2048) instead of (5, 2048)' in result.stderr


def test_another_arch_is_named(imagenet, tmp_path):
    torch.save(build(load('s0')).state_dict(), tmp_path / 's0.pth')
    result = python('-W', 'ignore', 'tools/test.py', 'configs/pretraining/mobileone_s1_in1k.py', tmp_path / 's0.pth',
                    '--work-dir', tmp_path, check=False, IN1K_ROOT=imagenet)
    assert result.returncode == 1 and "These are MobileOne 's0' weights, but the config says arch='s1'" in result.stderr


def test_two_classifiers_are_refused():
    model = build(load('s0'))
    heads = {f'{name}.weight': torch.zeros(1000, 1024) for name in ('linear', 'head.fc')}
    weights = dict(MobileOne('s0').state_dict()) | heads
    with pytest.raises(CheckpointError, match='several classifiers: head.fc.weight, linear.weight'):
        as_classifier(weights, model)


@pytest.mark.slow
def test_relaxation_in_fine_tuning(shapes_root, tmp_path, monkeypatch):
    """The examples: in both, weight decay ends at a tenth; in the segmentor, images grow."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    for config, grows in (('detection/ssdlite_mobileone_s2_relaxed_shapes', False),
                          ('segmentation/deeplabv3_mobileone_s2_relaxed_shapes', True)):
        cfg = Config.fromfile(ROOT / 'configs' / f'{config}.py')
        cfg.work_dir = str(tmp_path / config)
        shrink(cfg)
        cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
        cfg.merge_from_dict(dict(log_level='ERROR') | NO_VALIDATION)
        runner = Runner.from_cfg(cfg)
        seen = []

        class Look(Hook):

            def before_train_iter(self, runner, batch_idx, data_batch=None, seen=seen):
                group = runner.optim_wrapper.param_groups[0]
                seen.append((runner.epoch, group['weight_decay'], tuple(data_batch['inputs'][0].shape[1:])))

        runner.register_hook(Look(), 'VERY_LOW')
        runner.train()
        for i, (epoch, decay, size) in enumerate(seen):
            assert decay == pytest.approx(0.001 + 0.009 * (1 + math.cos(math.pi * i / len(seen))) / 2)
            side = (96, 112, 128)[min(epoch, 2)] if grows else 128
            assert size == (side, side)


def test_relaxation_in_a_loop_over_iterations(shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    cfg = Config.fromfile(ROOT / 'configs' / 'segmentation' / 'deeplabv3_mobileone_s2_relaxed_shapes.py')
    shrink(cfg)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=100)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, sampler=dict(type='InfiniteSampler'))
    cfg.param_scheduler = cfg.param_scheduler[-1:]
    cfg.merge_from_dict(dict(work_dir=str(tmp_path), log_level='ERROR') | NO_VALIDATION)
    runner = Runner.from_cfg(cfg)
    runner.train()
    # In the last of six iterations.
    last = 0.001 + 0.009 * (1 + math.cos(math.pi * 5 / 6)) / 2
    assert runner.optim_wrapper.param_groups[0]['weight_decay'] == pytest.approx(last)


@pytest.mark.slow
def test_two_processes(shapes_root, tmp_path):
    run_distributed('tools/dist_train.sh', SHAPES, '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=2',
                    'train_dataloader.batch_size=4', SHAPES_ROOT=shapes_root)
    assert len(logged_values(tmp_path, 'accuracy/top1')) == 1
