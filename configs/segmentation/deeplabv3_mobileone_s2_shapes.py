# The example that needs no download: the S2 segmentor on drawn shapes (tools/make_shapes.py), at
# 128x128, trained from scratch in a few minutes on two cores. It differs from the VOC config in the
# data and the schedule (_base_/shapes.py), the initialization and the head. The head is smaller,
# because the full one would take three quarters of the time, and its rates would exceed the feature
# map of 8x8.
_base_ = ['./_base_/deeplabv3_mobileone_s2.py', './_base_/shapes.py']

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(init_cfg=dict(_delete_=True, type='NearIdentity')),
    decode_head=dict(num_classes=len(_base_.metainfo.classes), channels=128, dilations=(1, 2, 4, 6)))
