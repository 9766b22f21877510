# The segmentor of configs/segmentation/deeplabv3_mobileone_s2_shapes.py on S0 instead of S2.
_base_ = ['../../configs/segmentation/deeplabv3_mobileone_s2_shapes.py']

model = dict(backbone=dict(arch='s0'), decode_head=dict(in_channels=1024))
