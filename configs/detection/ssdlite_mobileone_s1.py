_base_ = './_base_/ssdlite_mobileone_coco.py'

# Apple's ImageNet weights. For a local file: --cfg-options model.backbone.init_cfg.checkpoint=PATH;
# to train from scratch: --cfg-options model.backbone.init_cfg=None
checkpoint = 'https://docs-assets.developer.apple.com/ml-research/datasets/mobileone/mobileone_s1_unfused.pth.tar'
channels = (512, 1280)  # of s1 at strides 16 and 32
levels = (*channels, 512, 256, 256, 128)
model = dict(
    backbone=dict(arch='s1', init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    neck=dict(in_channels=channels, out_channels=levels),
    bbox_head=dict(in_channels=levels))
