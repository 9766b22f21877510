# RTMDet's neck and head on MobileOne: the heads that phones get today. None of it is the paper's.
#
# mmdet's: CSPNeXtPAFPN and RTMDetSepBNHead, losses, assigner, and score_thr, NMS and max_per_img of
# rtmdet_tiny; depthwise separable convolutions as in mmdet's option for them.
# Ours, for the size: MobileOne's last stage is wide, so a 1x1 convolution reduces every map to 128
# channels before the neck; 128 is what the budget of 1 GMAC leaves for S0 at 320x320. Levels have
# weights of their own, since depthwise ones are small, and mmdet cannot share them.
# Ours, for phones: ReLU instead of SiLU, as in the backbone (in the paper's Table 2, SiLU makes a
# network 1.7 times as slow as ReLU). nms_pre is 1000 per level instead of 30000, because an exported
# NMS computes with as many candidates in every image. It counts pairs of a place and a class, so it
# does cut, the worst ones; what that costs in AP we have not measured.
_base_ = './mobileone.py'

width = 128
norm_cfg = dict(type='BN')
act_cfg = dict(type='ReLU', inplace=True)
model = dict(
    type='RTMDet',
    backbone=dict(out_indices=(1, 2, 3)),
    neck=[
        dict(type='ChannelMapper', out_channels=width, kernel_size=1, norm_cfg=norm_cfg, act_cfg=act_cfg),
        dict(
            type='CSPNeXtPAFPN',
            in_channels=[width] * 3,
            out_channels=width,
            num_csp_blocks=1,
            expand_ratio=0.5,
            use_depthwise=True,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg),
    ],
    bbox_head=dict(
        type='RTMDetSepBNHead',
        num_classes=80,
        in_channels=width,
        stacked_convs=2,
        feat_channels=width,
        use_depthwise=True,
        share_conv=False,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        with_objectness=False,
        exp_on_reg=False,
        pred_kernel_size=1,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65), max_per_img=300))
