"""mmengine's pure Python configs (``read_base``, types as classes) of the networks in ``tiny``: same weights fit."""
_RUNTIME = '''
from mmengine.dataset import DefaultSampler
from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from torch.optim import AdamW

default_scope = None  # as in those that mmdet ships
default_hooks = dict(
    timer=dict(type=IterTimerHook), logger=dict(type=LoggerHook, interval=1),
    param_scheduler=dict(type=ParamSchedulerHook), checkpoint=dict(type=CheckpointHook, interval=1),
    sampler_seed=dict(type=DistSamplerSeedHook))
vis_backends = [dict(type=LocalVisBackend)]
log_processor = dict(type=LogProcessor, window_size=50, by_epoch=True)
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1, val_interval=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=2e-3))
train_loader = dict(batch_size=4, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=True))
val_loader = dict(batch_size=4, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False))
arch = dict(num_blocks=(1, 1, 1, 1), width_multipliers=(0.25, 0.25, 0.25, 0.25), num_conv_branches=2,
            num_se_blocks=(0, 0, 0, 1))
mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
classes = ('circle', 'square', 'triangle', 'star', 'ring')
palette = [(220, 60, 60), (60, 160, 60), (70, 90, 220), (230, 190, 40), (170, 70, 190)]
'''
_HEAD = '''
import os

from mmengine.config import read_base

with read_base():
    from .runtime import *

from mmcv.transforms import LoadImageFromFile
from torch.nn import BatchNorm2d, ReLU6

from mobileone_mm import MobileOne
'''
_DETECTOR = _HEAD + '''
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.evaluation import CocoMetric
from mmdet.models import DetDataPreprocessor, SingleStageDetector, SSDNeck
from mmdet.models.task_modules import DeltaXYWHBBoxCoder, MaxIoUAssigner, PseudoSampler, SSDAnchorGenerator
from mmdet.visualization import DetLocalVisualizer

from mobileone_mm.tasks.detection import SSDLiteHead

default_hooks.update(visualization=dict(type=DetVisualizationHook))
visualizer = dict(type=DetLocalVisualizer, vis_backends=vis_backends, name='visualizer')
levels = (64, 128, 32, 32, 32, 32)
norm_cfg, act_cfg = dict(type=BatchNorm2d), dict(type=ReLU6)
model = dict(
    type=SingleStageDetector,
    data_preprocessor=dict(type=DetDataPreprocessor, mean=mean, std=std, bgr_to_rgb=True, pad_size_divisor=1),
    backbone=dict(type=MobileOne, out_indices=(2, 3), arch=arch, norm_cfg=norm_cfg),
    neck=dict(type=SSDNeck, in_channels=levels[:2], out_channels=levels, level_strides=(2, 2, 2, 2),
              level_paddings=(1, 1, 1, 1), l2_norm_scale=None, use_depthwise=True, norm_cfg=norm_cfg, act_cfg=act_cfg),
    bbox_head=dict(
        type=SSDLiteHead, in_channels=levels, num_classes=5, norm_cfg=norm_cfg, act_cfg=act_cfg,
        anchor_generator=dict(
            type=SSDAnchorGenerator, scale_major=False, strides=[16, 32, 64, 128, 128, 128], ratios=[[2, 3]] * 6,
            min_sizes=[28, 44, 60, 76, 92, 108], max_sizes=[44, 60, 76, 92, 108, 124]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder, target_means=[0.] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])),
    train_cfg=dict(
        assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0., ignore_iof_thr=-1,
                      gt_max_assign_all=False),
        sampler=dict(type=PseudoSampler), smoothl1_beta=1., allowed_border=-1, pos_weight=-1, neg_pos_ratio=3,
        debug=False),
    test_cfg=dict(nms_pre=1000, nms=dict(type='nms', iou_threshold=0.45), min_bbox_size=0, score_thr=0.001,
                  max_per_img=100))
data_root = os.environ['SHAPES_ROOT'] + '/'
shared = dict(type=CocoDataset, metainfo=dict(classes=classes, palette=palette), data_root=data_root,
              data_prefix=dict(img='JPEGImages/'))
train_pipeline = [
    dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_bbox=True),
    dict(type=Resize, scale=(128, 128), keep_ratio=False), dict(type=RandomFlip, prob=0.5), dict(type=PackDetInputs)]
test_pipeline = [
    dict(type=LoadImageFromFile), dict(type=Resize, scale=(128, 128), keep_ratio=False),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=PackDetInputs, meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(
    dataset=dict(ann_file='annotations/instances_train.json', pipeline=train_pipeline, **shared), **train_loader)
val_dataloader = dict(
    dataset=dict(ann_file='annotations/instances_val.json', pipeline=test_pipeline, test_mode=True, **shared),
    **val_loader)
test_dataloader = val_dataloader
val_evaluator = dict(type=CocoMetric, ann_file=data_root + 'annotations/instances_val.json', metric='bbox')
test_evaluator = val_evaluator
del shared, train_loader, val_loader
'''
_SEGMENTOR = _HEAD + '''
from mmcv.transforms import RandomFlip, Resize
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.engine import SegVisualizationHook
from mmseg.evaluation import IoUMetric
from mmseg.models import CrossEntropyLoss, EncoderDecoder, SegDataPreProcessor
from mmseg.visualization import SegLocalVisualizer

from mobileone_mm.tasks.segmentation import DeepLabV3Head

default_hooks.update(visualization=dict(type=SegVisualizationHook))
visualizer = dict(type=SegLocalVisualizer, vis_backends=vis_backends, name='visualizer')
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(type=SegDataPreProcessor, mean=mean, std=std, bgr_to_rgb=True, pad_val=0, seg_pad_val=255,
                           size=(128, 128)),
    backbone=dict(type=MobileOne, strides=(2, 2, 2, 1), dilations=(1, 1, 1, 2), contract_dilation=True, arch=arch,
                  norm_cfg=dict(type=BatchNorm2d)),
    decode_head=dict(
        type=DeepLabV3Head, in_index=0, in_channels=128, channels=16, num_classes=6, dilations=(1, 2, 4, 6),
        norm_cfg=dict(type=BatchNorm2d), align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss, avg_non_ignore=True)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
shared = dict(type=BaseSegDataset, data_root=os.environ['SHAPES_ROOT'],
              metainfo=dict(classes=('background', *classes), palette=[(0, 0, 0), *palette]),
              data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'))
train_pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=Resize, scale=(128, 128)),
                  dict(type=RandomFlip, prob=0.5), dict(type=PackSegInputs)]
test_pipeline = [dict(type=LoadImageFromFile), dict(type=Resize, scale=(128, 128)), dict(type=LoadAnnotations),
                 dict(type=PackSegInputs)]
train_dataloader = dict(
    dataset=dict(ann_file='ImageSets/Segmentation/train.txt', pipeline=train_pipeline, **shared), **train_loader)
val_dataloader = dict(
    dataset=dict(ann_file='ImageSets/Segmentation/val.txt', pipeline=test_pipeline, **shared), **val_loader)
test_dataloader = val_dataloader
val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
del shared, train_loader, val_loader
'''
TEXTS = {'detector': _DETECTOR, 'segmentor': _SEGMENTOR}


def write_pure_config(folder, kind, more=''):
    """A config of a ``detector`` or ``segmentor`` below ``folder``, with the base that it reads; returns its path."""
    (folder / 'runtime.py').write_text(_RUNTIME, encoding='utf-8')
    path = folder / 'pure.py'
    path.write_text(TEXTS[kind] + more, encoding='utf-8')
    return path
