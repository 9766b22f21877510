# DeepLabV3 on MobileOne.
#
# From the paper (Table 11b): MobileOne + DeepLabV3, and S4 without Squeeze-and-Excitation.
# Reconstructed, after MobileViT's first recipe (cvnets v0.1), whose augmentation and schedule agree
# with what is remembered of the paper's supplement: output stride 16, ASPP of 256 channels with
# rates 6, 12, 18 and dropout 0.1, no auxiliary head. The head is mmseg's, which projects with a 3x3
# convolution where cvnets has a 1x1.
#
# For output stride 8, a config needs only the following line, and usually rates of (1, 12, 24, 36)
# in decode_head.dilations:
#   model = dict(backbone=dict(strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4)))
_base_ = './mobileone_stride16.py'

model = dict(
    decode_head=dict(
        type='DeepLabV3Head',
        in_index=0,
        channels=256,
        dilations=(1, 6, 12, 18),
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)))
