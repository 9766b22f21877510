_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmpretrain'
default_hooks = dict(
    checkpoint=dict(save_best='accuracy/top1'),
    visualization=dict(type='VisualizationHook', enable=False))
custom_hooks = [
    # The paper's 0.9995, for all variants. Whether it averages the norms' statistics too is not known; mmpretrain does.
    dict(type='EMAHook', momentum=5e-4, update_buffers=True),
    # Norms count on each device by itself; average them, so that all devices validate what is then saved.
    dict(type='SyncAveragedBuffersHook'),
    # A run that validates trains on exactly as one that does not.
    dict(type='PreserveRandomStateHook'),
]
visualizer = dict(type='UniversalVisualizer', vis_backends={{_base_.vis_backends}}, name='visualizer')
