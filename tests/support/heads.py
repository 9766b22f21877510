"""Detectors with other dense heads than SSDLite's, as lines behind a config of a tiny detector (``tiny.DETECTOR``)."""

_FPN = """
model.update(
    neck=dict(_delete_=True, type='FPN', in_channels=[64, 128], out_channels=32, num_outs=3),
    bbox_head=dict(
        _delete_=True, num_classes={classes}, in_channels=32, stacked_convs=1, feat_channels=32, {head}),
    train_cfg=dict(_delete_=True, assigner=dict(
        type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0)),
    test_cfg=dict({test_cfg}))
"""
_ANCHORS = "anchor_generator=dict(type='AnchorGenerator', {}, strides=[16, 32, 64]), bbox_coder=dict(" \
           "type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.2, 0.2])"
_HEADS = {
    'retinanet': "type='RetinaHead', " + _ANCHORS.format(
        'octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0]'),
    'fcos': "type='FCOSHead', strides=[16, 32, 64], regress_ranges=((-1, 64), (64, 128), (128, 1e8)), "
            'norm_on_bbox=True',
    'rtmdet': "type='RTMDetSepBNHead', anchor_generator=dict(type='MlvlPointGenerator', offset=0, "
              "strides=[16, 32, 64]), bbox_coder=dict(type='DistancePointBBoxCoder'), with_objectness=False, "
              "use_depthwise=True, share_conv=False, norm_cfg=dict(type='BN'), loss_cls=dict("
              "type='QualityFocalLoss', use_sigmoid=True), loss_bbox=dict(type='GIoULoss')",
    'atss': "type='ATSSHead', norm_cfg=dict(type='GN', num_groups=8), " + _ANCHORS.format(
        'ratios=[1.0], octave_base_scale=8, scales_per_octave=1'),
}
HEADS = ['ssdlite', *_HEADS]


def lines(head, classes, **test_cfg):
    """Of a config: the head, and what its ``test_cfg`` is to have."""
    test_cfg = ', '.join(f'{key}={value!r}' for key, value in test_cfg.items())
    if head == 'ssdlite':
        return f'model.update(test_cfg=dict({test_cfg}))\n'
    return _FPN.format(classes=classes, head=_HEADS[head], test_cfg=test_cfg)
