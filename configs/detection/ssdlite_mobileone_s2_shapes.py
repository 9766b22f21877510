# The example that needs no download: the S2 detector on drawn shapes (tools/make_shapes.py), at
# 128x128, trained from scratch in a few minutes on two cores. It differs from the COCO config in
# the data and the schedule (_base_/shapes.py), the anchors, the initialization, and the norms of neck
# and head.
_base_ = ['./_base_/ssdlite_mobileone.py', '../_base_/mobileone_s2.py', './_base_/shapes.py']

levels = (*_base_.mobileone.channels[2:], 512, 256, 256, 128)
norm_cfg = dict(type='BN')  # a momentum of 0.03 would be too slow for so few iterations
model = dict(
    backbone=dict(arch=_base_.mobileone.arch, init_cfg=dict(type='NearIdentity')),
    neck=dict(in_channels=_base_.mobileone.channels[2:], out_channels=levels, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes=len(_base_.shapes.classes),
        in_channels=levels,
        norm_cfg=norm_cfg,
        anchor_generator=dict(
            strides=[16, 32, 64, 128, 128, 128],
            # Squares of min and sqrt(min * max). Most shapes are 31 to 82 pixels wide, so the two finest
            # levels have 30 to 65.
            min_sizes=[30, 50, 76, 96, 110, 120],
            max_sizes=[60, 84, 104, 116, 124, 128])))
