_base_ = './deeplabv3_mobileone.py'

checkpoint = 'https://docs-assets.developer.apple.com/ml-research/datasets/mobileone/mobileone_s3_unfused.pth.tar'
model = dict(
    backbone=dict(arch='s3', init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    decode_head=dict(in_channels=2048))
