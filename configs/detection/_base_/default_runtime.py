_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmdet'
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'), visualization=dict(type='DetVisualizationHook'))
custom_hooks = [
    # Each device keeps its own statistics of the norms. Averaging them over devices makes all
    # devices validate with the statistics that the checkpoint gets.
    dict(type='SyncAveragedBuffersHook'),
    # Validation draws no random numbers from training: a run with validation trains exactly as one
    # without.
    dict(type='PreserveRandomStateHook'),
]
visualizer = dict(type='DetLocalVisualizer', vis_backends={{_base_.vis_backends}}, name='visualizer')
