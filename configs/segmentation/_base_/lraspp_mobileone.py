# Lite R-ASPP (LR-ASPP, of MobileNetV3) on MobileOne: a head that phones get today. It is not the
# paper's; data and schedule are those of our DeepLabV3 configs.
#
# mmseg's: the head, with features at strides 4, 8 and 16, branches of 32 and 64 channels, dropout.
# Ours: global average pooling, as torchvision has it, where mmseg has a window of 49x49, which an
# image of 512x512 does not fill at stride 16; and 112 channels instead of 128, with which S0 stays
# below 2.5 GMACs at 512x512 for the 150 classes of ADE20K too.
_base_ = './mobileone_stride16.py'

model = dict(
    backbone=dict(out_indices=(0, 1, 3)),
    decode_head=dict(
        type='GlobalLRASPPHead',
        in_index=(0, 1, 2),
        input_transform='multiple_select',
        channels=112,
        branch_channels=(32, 64),
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='ReLU'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)))
