"""The backbone in configs of mmdet and mmseg: build, one loss, one prediction."""
import importlib.util
from pathlib import Path

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.config import Config
from mmengine.registry import MODELS
from mmseg.utils import register_all_modules as register_mmseg

from tests.support.segmentation import images

CHANNELS = (48, 128, 256, 1024)  # of S0

DETECTORS = [
    ('retinanet/retinanet_r50_fpn_1x_coco.py', (0, 1, 2, 3)),
    ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', (0, 1, 2, 3)),
    ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', (1, 2, 3)),
    pytest.param('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', (0, 1, 2, 3), marks=pytest.mark.ops),
    pytest.param('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', (0, 1, 2, 3), marks=pytest.mark.ops),
]
SEGMENTORS = [
    ('upernet_r50.py', (0, 1, 2, 3), dict(in_channels=CHANNELS)),
    ('fcn_r50-d8.py', (2, 3), dict(in_channels=1024, in_index=1)),
    pytest.param('lraspp_m-v3-d8.py', (0, 1, 2), dict(in_channels=CHANNELS[:3]), marks=pytest.mark.slow),
    ('segformer_mit-b0.py', (0, 1, 2, 3), dict(in_channels=CHANNELS)),
    ('deeplabv3plus_r50-d8.py', (0, 1, 2, 3), dict(in_channels=1024, c1_in_channels=48)),
]


def load(library, path):
    root = Path(importlib.util.find_spec(library).origin).parent / '.mim' / 'configs'
    return Config.fromfile(root / path).model


def backbone(out_indices, **more):
    return dict(type='MobileOne', arch='s0', out_indices=out_indices, **more)


@pytest.mark.parametrize('path, out_indices', DETECTORS)
def test_detectors(path, out_indices):
    register_mmdet()
    cfg = load('mmdet', path)
    cfg.backbone = backbone(out_indices)
    cfg.neck.in_channels = [CHANNELS[i] for i in out_indices]
    model = MODELS.build(cfg)
    masks = 'mask' in path
    data = demo_mm_inputs(2, [[3, 128, 160], [3, 128, 160]], num_items=[3, 2], with_mask=masks)
    losses = model.train()(**model.data_preprocessor(data, True), mode='loss')
    sum(value if torch.is_tensor(value) else sum(value) for key, value in losses.items() if 'loss' in key).backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    with torch.no_grad():
        results = model.eval()(**model.data_preprocessor(data, False), mode='predict')
    assert len(results) == 2 and results[0].pred_instances.bboxes.shape[1] == 4


@pytest.mark.parametrize('path, out_indices, head', SEGMENTORS)
def test_segmentors(path, out_indices, head):
    register_mmseg()
    cfg = load('mmseg', f'_base_/models/{path}')
    norm_cfg = dict(type='BN')
    size = 800 if 'lraspp' in path else 128  # its pooling is 49 wide, at stride 16
    cfg.backbone, cfg.pretrained = backbone(out_indices), None
    cfg.data_preprocessor = dict(cfg.get('data_preprocessor') or dict(type='SegDataPreProcessor'), size=(size, size))
    cfg.decode_head.update(head, norm_cfg=norm_cfg, num_classes=21)
    if cfg.get('auxiliary_head'):
        cfg.auxiliary_head.update(in_channels=CHANNELS[2], in_index=out_indices.index(2), norm_cfg=norm_cfg,
                                  num_classes=21)
    model = MODELS.build(cfg)
    data = images((size, size), (size, size))
    losses = model.train()(**model.data_preprocessor(data, True), mode='loss')
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    used = max(out_indices) + 1
    assert all(parameter.grad is not None for name, parameter in model.backbone.named_parameters()
               if name.startswith(tuple(f'stage{i}.' for i in range(used + 1))))
    with torch.no_grad():
        result = model.eval()(**model.data_preprocessor(images((size - 1, size + 2))), mode='predict')[0]
    assert result.pred_sem_seg.shape == (size - 1, size + 2)
