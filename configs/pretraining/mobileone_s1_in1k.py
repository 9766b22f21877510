_base_ = ['./_base_/mobileone_in1k.py', '../_base_/mobileone_s1.py']

model = dict(
    backbone=dict(arch=_base_.mobileone.arch),
    head=dict(in_channels=_base_.mobileone.channels[-1]))
