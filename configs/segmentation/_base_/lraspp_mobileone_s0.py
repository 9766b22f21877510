_base_ = ['./lraspp_mobileone.py', '../../_base_/mobileone_s0.py']

model = dict(
    backbone=dict(arch=_base_.mobileone.arch, init_cfg=_base_.mobileone.init_cfg),
    decode_head=dict(in_channels=[_base_.mobileone.channels[i] for i in (0, 1, 3)]))
