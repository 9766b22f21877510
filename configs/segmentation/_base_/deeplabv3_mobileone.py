# DeepLabV3 on MobileOne.
#
# From the paper (Table 11b): MobileOne + DeepLabV3, and S4 without Squeeze-and-Excitation.
# Reconstructed, after MobileViT's first recipe (cvnets v0.1), whose augmentation and schedule agree
# with what is remembered of the paper's supplement: output stride 16, ASPP of 256 channels with
# rates 6, 12, 18 and dropout 0.1, no auxiliary head. The head is mmseg's, which projects with a 3x3
# convolution where cvnets has a 1x1.
#
# The paper does not say how it dilated MobileOne. With contract_dilation, the pretrained
# convolutions see the same sampling grid as in their training. Apple does not state the mean and
# std of the input; ImageNet's give the published accuracy. MobileViT was trained in mixed
# precision: on a GPU, add --amp.
#
# For output stride 8, a config needs only the following line, and usually rates of (1, 12, 24, 36)
# in decode_head.dilations:
#   model = dict(backbone=dict(strides=(2, 2, 1, 1), dilations=(1, 1, 2, 4)))
#
# The arch, its channels and its weights come from configs/_base_/mobileone_*.py.
#   Weights from a local file: --cfg-options model.backbone.init_cfg.checkpoint=PATH
#   Training from scratch:     --cfg-options model.backbone.init_cfg=None
custom_imports = dict(imports=['mobileone_mm.tasks.segmentation'], allow_failed_imports=False)
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(512, 512))
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='MobileOne', strides=(2, 2, 2, 1), dilations=(1, 1, 1, 2), contract_dilation=True),
    decode_head=dict(
        type='DeepLabV3Head',
        in_index=0,
        channels=256,
        dilations=(1, 6, 12, 18),
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
