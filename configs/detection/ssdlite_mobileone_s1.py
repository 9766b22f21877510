_base_ = ['./_base_/ssdlite_mobileone_coco.py', '../_base_/mobileone_s1.py']

levels = (*_base_.mobileone.channels[2:], 512, 256, 256, 128)
model = dict(
    backbone=dict(arch=_base_.mobileone.arch, init_cfg=_base_.mobileone.init_cfg),
    neck=dict(in_channels=_base_.mobileone.channels[2:], out_channels=levels),
    bbox_head=dict(in_channels=levels))
