# mmdet's SSDLite-MobileNetV2 (ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py) on the drawn shapes, with
# the data, anchors, norms and schedule of ours.
_base_ = ['../../configs/detection/ssdlite_mobileone_s2_shapes.py']

channels = (96, 1280)
levels = (*channels, 512, 256, 256, 128)
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(4, 7),
        norm_cfg=dict(type='BN'),
        init_cfg=dict(type='TruncNormal', layer='Conv2d', std=0.03)),
    neck=dict(in_channels=channels, out_channels=levels),
    bbox_head=dict(in_channels=levels))
