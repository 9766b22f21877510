# mmseg's LR-ASPP on MobileNetV3-Large (lraspp_m-v3-d8.py) on the drawn shapes, with the data and the
# schedule of ours. mmseg's own head does not run on maps below 49x49, so it has ours, which pools globally.
_base_ = ['../../configs/segmentation/lraspp_mobileone_s0_shapes.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV3',
        arch='large',
        out_indices=(1, 3, 16),
        norm_cfg=dict(type='BN', eps=0.001)),
    decode_head=dict(in_channels=(16, 24, 960), channels=128, norm_cfg=dict(type='BN', eps=0.001)))
