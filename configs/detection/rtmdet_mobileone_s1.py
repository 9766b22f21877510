_base_ = ['./_base_/rtmdet_mobileone_coco.py', '../_base_/mobileone_s1.py']

model = dict(
    backbone=dict(arch=_base_.mobileone.arch, init_cfg=_base_.mobileone.init_cfg),
    neck=[dict(**_base_.model.neck[0], in_channels=list(_base_.mobileone.channels[1:])), _base_.model.neck[1]])
