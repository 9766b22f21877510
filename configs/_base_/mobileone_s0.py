_base_ = './mobileone_weights.py'

mobileone = dict(
    arch='s0',
    channels=(48, 128, 256, 1024),  # of stage1 to stage4, at strides 4, 8, 16 and 32
    init_cfg=dict(checkpoint=_base_.mobileone.init_cfg.checkpoint.format('s0')))
