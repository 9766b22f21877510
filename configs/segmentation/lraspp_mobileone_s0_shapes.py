# LR-ASPP on S0, on drawn shapes (tools/make_shapes.py), at 128x128, trained from scratch in a few minutes
# on two cores. It differs from the VOC config in the data and the schedule (_base_/shapes.py), and the
# initialization.
_base_ = ['./_base_/lraspp_mobileone_s0.py', './_base_/shapes.py']

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(init_cfg=dict(_delete_=True, type='NearIdentity')),
    decode_head=dict(num_classes=len(_base_.metainfo.classes)))
