# RTMDet's head on S0, on drawn shapes (tools/make_shapes.py), at 128x128, trained from scratch in a few
# minutes on two cores. It differs from the COCO config in the data, the schedule (_base_/shapes.py) and
# the initialization; there is no mosaic, mixup or EMA.
_base_ = ['./_base_/rtmdet_mobileone.py', '../_base_/mobileone_s0.py', './_base_/shapes.py']

model = dict(
    backbone=dict(arch=_base_.mobileone.arch, init_cfg=dict(type='NearIdentity')),
    neck=[dict(**_base_.model.neck[0], in_channels=list(_base_.mobileone.channels[1:])), _base_.model.neck[1]],
    bbox_head=dict(num_classes=len(_base_.shapes.classes)))
