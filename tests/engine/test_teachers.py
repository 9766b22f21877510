"""mmdet's teachers, semi-supervised and distilling: in eval mode from the start, changed by hooks."""
import importlib.util
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner

from tests.support.paths import ROOT
from tests.support.reference import randomize, reference_maps

MMDET_CONFIGS = Path(importlib.util.find_spec('mmdet').origin).parent / '.mim' / 'configs'


def check_and_record(backbone, means):
    """Compare each output of a backbone in eval mode with the branch formula, and record its mean."""

    def hook(module, inputs, outputs):
        assert not module.training
        maps = reference_maps(module, inputs[0])
        for index, got in zip(module.out_indices, outputs, strict=True):
            torch.testing.assert_close(got, maps[index], rtol=1e-3, atol=1e-3 * maps[index].abs().max().item())
        means.append((inputs[0].mean().item(), outputs[-1].mean().item()))

    backbone.register_forward_hook(hook)


def semi_supervised(shapes_root):
    """mmdet's config of SoftTeacher, on shapes, with SSDLite in place of Faster R-CNN."""
    shapes = Config.fromfile(ROOT / 'configs' / 'detection' / 'ssdlite_mobileone_s2_shapes.py')
    folder = MMDET_CONFIGS / 'soft_teacher'
    cfg = Config.fromfile(folder / 'soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py')
    detector = shapes.model
    detector.backbone.arch = 's0'
    levels = (256, 1024, *detector.neck.out_channels[2:])
    detector.neck.update(in_channels=levels[:2], out_channels=levels)
    detector.bbox_head.in_channels = levels
    cfg.model.type = 'SemiBaseDetector'
    cfg.model.detector = detector
    cfg.model.data_preprocessor.data_preprocessor = detector.data_preprocessor
    cfg.model.semi_train_cfg.cls_pseudo_thr = 0.05

    def small(pipeline):
        for step in pipeline:
            if step['type'] == 'RandomResize':
                step['scale'] = [(128, 128), (144, 144)]
            for inner in step.values():
                if isinstance(inner, list) and inner and isinstance(inner[0], dict):
                    small(inner)
        return pipeline

    source = shapes.train_dataloader.dataset
    for dataset in cfg.train_dataloader.dataset.datasets:
        dataset.update(metainfo=source.metainfo, data_root=str(shapes_root) + '/', ann_file=source.ann_file,
                       data_prefix=source.data_prefix, pipeline=small(dataset.pipeline))
    loader = dict(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.update(loader, batch_size=4)
    cfg.train_dataloader.sampler.update(batch_size=4, source_ratio=[1, 1])  # the neck's norms need two of each
    cfg.val_dataloader = cfg.test_dataloader = shapes.val_dataloader
    cfg.val_dataloader.update(loader)
    cfg.val_evaluator = cfg.test_evaluator = shapes.val_evaluator
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2)
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=1e-3))
    cfg.param_scheduler, cfg.default_scope = [], 'mmdet'
    cfg.custom_hooks = [dict(type='MeanTeacherHook', momentum=0.2)]
    return cfg


@pytest.mark.slow
def test_semi_supervised_with_mean_teacher(shapes_root, tmp_path, monkeypatch):
    """The teacher is in eval mode before any weights are loaded, and follows each of MeanTeacherHook's updates."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    cfg = semi_supervised(shapes_root)
    cfg.work_dir = str(tmp_path)
    runner = Runner.from_cfg(cfg)
    model, means, weights = runner.model, [], []
    check_and_record(model.teacher.backbone, means)
    kept = model.teacher.backbone.stage1[0].conv_branches[0].conv.weight
    model.teacher.backbone.register_forward_hook(lambda *args: weights.append(kept.clone()))
    runner.train()
    # Four iterations, and a validation after the second and the fourth; no update between the first
    # and the third.
    assert len(means) == 6 and torch.equal(weights[2], weights[3])
    assert all(not torch.equal(a, b) for a, b in pairwise([*weights[:3], *weights[4:]]))
    assert {f'val/{who}/coco/bbox_mAP' for who in ('teacher', 'student')} <= runner.message_hub.log_scalars.keys()


def test_knowledge_distillation():
    """The teacher is no submodule: only the detector's methods pass train(), eval(), to() to it."""
    register_all_modules()
    backbone = dict(type='MobileOne', arch='s0', out_indices=(1, 2, 3))
    neck = dict(type='FPN', in_channels=[128, 256, 1024], out_channels=32, num_outs=3)
    cfg = Config.fromfile(MMDET_CONFIGS / 'ld' / 'ld_r18-gflv1-r101_fpn_1x_coco.py').model
    head = cfg.bbox_head
    head.update(in_channels=32, feat_channels=32, stacked_convs=1, num_classes=3)
    head.anchor_generator.strides = [8, 16, 32]
    teacher_head = {key: value for key, value in head.items() if key != 'loss_ld'} | dict(type='GFLHead')
    teacher = dict(type='GFL', backbone=backbone, neck=neck, bbox_head=teacher_head, test_cfg=cfg.test_cfg)
    cfg = dict(cfg) | dict(backbone=backbone, neck=neck, teacher_config=dict(model=teacher), teacher_ckpt=None)
    model = MODELS.build(cfg)
    randomize(model), randomize(model.teacher_model, 1)
    assert 'teacher_model' not in dict(model.named_children())
    means = []
    check_and_record(model.teacher_model.backbone, means)
    data = demo_mm_inputs(2, [[3, 96, 96], [3, 96, 96]], num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)

    def step():
        model.train()
        losses = model(**model.data_preprocessor(data, True), mode='loss')
        optimizer.zero_grad()
        sum(sum(value) for value in losses.values()).backward()
        optimizer.step()

    step()
    assert all(parameter.grad is None for parameter in model.teacher_model.parameters())
    step()
    assert means[0] == means[1]
    model.to('cpu')
    with torch.no_grad():
        for parameter in model.teacher_model.parameters():
            parameter.data.mul_(1.01)
    step()
    model.teacher_model.load_state_dict(randomize(MODELS.build(teacher), 2).state_dict())
    model.to('cpu')
    step()
    assert len({mean for _, mean in means}) == 3
    model.eval()
    with torch.no_grad():
        assert len(model(**model.data_preprocessor(data, False), mode='predict')) == 2
