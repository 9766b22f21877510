"""Configs: they build, agree with the backbone, and find their data."""
from pathlib import Path

import pytest
import torch
from tests.support.paths import ROOT
from tests.support.runs import python
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config

CONFIGS = sorted((ROOT / 'configs' / 'detection').glob('*.py'))
LEAVES = [f'ssdlite_mobileone_s{i}' for i in range(5)]


def load(name):
    return Config.fromfile(ROOT / 'configs' / 'detection' / f'{name}.py')


@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_builds_and_agrees(config):
    register_all_modules()
    cfg = Config.fromfile(config)
    model = MODELS.build(cfg.model)
    channels, strides = model.backbone.out_channels, model.backbone.out_strides
    if config.stem.startswith('rtmdet'):
        assert tuple(cfg.model.neck[0].in_channels) == channels and strides == (8, 16, 32)
    else:
        assert cfg.model.neck.in_channels == channels and strides == (16, 32)
        assert cfg.model.bbox_head.in_channels[:2] == channels
    # The strides of anchors or points are those of the levels.
    size = cfg.test_pipeline[1].scale[0]
    with torch.no_grad():
        levels = model.eval().extract_feat(torch.zeros(1, 3, size, size))
    assert [round(size / level.shape[-1]) for level in levels] == cfg.model.bbox_head.anchor_generator.strides


@pytest.mark.parametrize('name', LEAVES)
def test_the_papers_numbers(name):
    cfg = load(name)
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4)
    warmup, cosine = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.end, warmup.by_epoch) == ('LinearLR', 0.001, 4500, False)
    assert (cosine.type, cosine.T_max, cfg.train_cfg.max_epochs) == ('CosineAnnealingLR', 200, 200)
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 192
    assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'
    assert 'TensorboardVisBackend' in [backend.type for backend in cfg.vis_backends]
    arch = name[-2:]
    assert cfg.model.backbone.arch == arch
    assert cfg.model.backbone.init_cfg.checkpoint == (
        f'https://docs-assets.developer.apple.com/ml-research/datasets/mobileone/mobileone_{arch}_unfused.pth.tar')


def test_leaves_are_small():
    for path in CONFIGS:
        assert 'shapes' in path.name or len(path.read_text().splitlines()) <= 15, path


@pytest.mark.parametrize('root', ['/somewhere/coco', '/somewhere/coco/'])
def test_coco_root_reaches_the_evaluators(monkeypatch, root):
    monkeypatch.setenv('COCO_ROOT', root)
    cfg = load('ssdlite_mobileone_s2')
    for path in (cfg.train_dataloader.dataset.data_root, cfg.val_evaluator.ann_file, cfg.test_evaluator.ann_file,
                 cfg.test_dataloader.dataset.data_root):
        assert Path(path).is_relative_to('/somewhere/coco')


def test_init_cfg_can_be_switched_off():
    cfg = load('ssdlite_mobileone_s2')
    cfg.merge_from_dict({'model.backbone.init_cfg': None})
    register_all_modules()
    MODELS.build(cfg.model).init_weights()


@pytest.mark.parametrize('name, tool, extra', [
    ('ssdlite_mobileone_s2', 'train', []), ('ssdlite_mobileone_s2', 'test', [__file__]),
    ('rtmdet_mobileone_s0', 'train', [])])
def test_missing_data_ends_at_once(tmp_path, name, tool, extra):
    result = python(f'tools/{tool}.py', f'configs/detection/{name}.py', *extra, check=False,
                    COCO_ROOT=tmp_path / 'coco')
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    for part in (str(tmp_path / 'coco' / 'annotations' / 'instances_val2017.json'), 'COCO_ROOT is', 'cocodataset.org',
                 'make_shapes.py', 'ssdlite_mobileone_s2_shapes.py'):
        assert part in result.stderr
    assert 0 < len(result.stderr.partition('Error: ')[2].splitlines()) < 12


def test_missing_shapes_say_how_to_draw_them(tmp_path):
    result = python('tools/train.py', 'configs/detection/ssdlite_mobileone_s2_shapes.py', check=False,
                    SHAPES_ROOT=tmp_path / 'shapes')
    assert result.returncode == 1 and 'tools/make_shapes.py' in result.stderr and 'Traceback' not in result.stderr
