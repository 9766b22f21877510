_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmdet'
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'), visualization=dict(type='DetVisualizationHook'))
custom_hooks = [
    dict(type='CheckInvalidLossHook', interval=50, priority='VERY_LOW'),
    # Norms count on each device by itself; average them, so that all devices validate what is then saved.
    dict(type='SyncBuffersHook'),
    # A run that validates trains on exactly as one that does not.
    dict(type='PreserveRandomStateHook'),
]
visualizer = dict(type='DetLocalVisualizer', vis_backends={{_base_.vis_backends}}, name='visualizer')
