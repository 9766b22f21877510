_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmseg'
default_hooks = dict(checkpoint=dict(save_best='mIoU'), visualization=dict(type='SegVisualizationHook'))
custom_hooks = [
    # The paper's EMA (its supplement, from memory). As in MobileViT, it also averages the
    # statistics of the norms.
    dict(type='EMAHook', momentum=5e-4, update_buffers=True),
    # Without SyncBN, each device keeps its own statistics of the norms. Averaging them over devices
    # makes all devices validate with the statistics that the checkpoint gets.
    dict(type='SyncAveragedBuffersHook'),
    # Validation draws no random numbers from training: a run with validation trains exactly as one
    # without.
    dict(type='PreserveRandomStateHook'),
]
# SyncBN on several GPUs, plain batch norm on one device. The config needs no change for either.
sync_bn = 'torch'
visualizer = dict(type='SegLocalVisualizer', vis_backends={{_base_.vis_backends}}, name='visualizer')
