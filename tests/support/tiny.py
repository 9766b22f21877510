"""Configs of networks small enough to be trained in seconds, on the drawn shapes; the tools run on them as on ours."""
from .paths import ROOT

TINY = dict(num_blocks=(1, 1, 1, 1), width_multipliers=(0.25, 0.25, 0.25, 0.25), num_conv_branches=2,
            num_se_blocks=(0, 0, 0, 1))  # channels 16, 32, 64, 128


def arch_options(arch):
    """What --cfg-options say of a backbone: 's0' or so, or 'tiny'."""
    if arch != 'tiny':
        return {'model.backbone.arch': arch}
    return {f'model.backbone.arch.{key}': value for key, value in dict(_delete_=True, **TINY).items()}


_ARCH = f"""
arch = dict(_delete_=True, **{TINY})
common = dict(batch_size=4, num_workers=0)  # persistent_workers is switched off for it
train_dataloader = dict(**common)
val_dataloader = dict(**common)
test_dataloader = val_dataloader
param_scheduler = [dict(type='ConstantLR', factor=1.0)]
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=0)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend')])
"""
DETECTOR = f"_base_ = r'{ROOT}/configs/detection/ssdlite_mobileone_s2_shapes.py'" + _ARCH + """
levels = (64, 128, 32, 32, 32, 32)
model = dict(
    backbone=dict(arch=arch),
    neck=dict(in_channels=levels[:2], out_channels=levels),
    bbox_head=dict(in_channels=levels),
    test_cfg=dict(score_thr=0.001))
"""
RTMDET = f"_base_ = r'{ROOT}/configs/detection/rtmdet_mobileone_s0_shapes.py'" + _ARCH + """
mapper, pafpn = _base_.model.neck
model = dict(
    backbone=dict(arch=arch),
    neck=[dict(mapper, in_channels=[32, 64, 128], out_channels=32), dict(pafpn, in_channels=[32] * 3, out_channels=32)],
    bbox_head=dict(in_channels=32, feat_channels=32),
    test_cfg=dict(max_per_img=50))
del mapper, pafpn
# Enough iterations for boxes that are right.
train_dataloader = dict(dataset=dict(
    _delete_=True, type='RepeatDataset', times=15, dataset=_base_.train_dataloader.dataset))
"""
SEGMENTOR = f"_base_ = r'{ROOT}/configs/segmentation/deeplabv3_mobileone_s2_shapes.py'" + _ARCH + """
model = dict(backbone=dict(arch=arch), decode_head=dict(in_channels=128, channels=16))
"""
LRASPP = f"_base_ = r'{ROOT}/configs/segmentation/lraspp_mobileone_s0_shapes.py'" + _ARCH + """
model = dict(backbone=dict(arch=arch), decode_head=dict(in_channels=[16, 32, 128], channels=16))
"""
CLASSIFIER = f"_base_ = r'{ROOT}/configs/pretraining/mobileone_s2_shapes.py'" + _ARCH + """
model = dict(backbone=dict(arch=arch), head=dict(in_channels=128))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=72, edge='short', backend='pillow'),
    dict(type='CenterCrop', crop_size=64),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, 3))
test_evaluator = val_evaluator
# Enough iterations for scores that differ from image to image, and an average that follows them.
train_dataloader = dict(dataset=dict(
    _delete_=True, type='RepeatDataset', times=10, dataset=_base_.train_dataloader.dataset))
custom_hooks = [{**_base_.custom_hooks[0], 'momentum': 0.2}, *_base_.custom_hooks[1:]]
"""


def write_config(folder, text, more=''):
    """A config below ``folder``: one of the above, with more lines of Python behind it; returns its path."""
    path = folder / 'tiny.py'
    path.write_text(text + more, encoding='utf-8')
    return path
