# A segmentor on MobileOne at output stride 16, without its head.
#
# The paper does not say how it dilated MobileOne. With contract_dilation, the pretrained
# convolutions see the same sampling grid as in their training. Apple does not state the mean and
# std of the input; ImageNet's give the published accuracy. MobileViT was trained in mixed
# precision: on a GPU, add --amp.
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
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
