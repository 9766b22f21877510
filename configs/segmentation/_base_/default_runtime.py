_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmseg'
default_hooks = dict(checkpoint=dict(save_best='mIoU'), visualization=dict(type='SegVisualizationHook'))
custom_hooks = [
    # The paper's (its supplement, from memory), as in MobileViT, which averages the norms' statistics too.
    dict(type='EMAHook', momentum=5e-4, update_buffers=True),
    # Where SyncBN does not do it, average the norms' statistics over devices, so that all validate what is then saved.
    dict(type='SyncAveragedBuffersHook'),
    # A run that validates trains on exactly as one that does not.
    dict(type='PreserveRandomStateHook'),
]
# Batch norm over all devices where there are several GPUs, plain batch norm on one: nothing to edit.
sync_bn = 'torch'
visualizer = dict(type='SegLocalVisualizer', vis_backends={{_base_.vis_backends}}, name='visualizer')
