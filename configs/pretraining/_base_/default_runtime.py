_base_ = '../../_base_/default_runtime.py'

default_scope = 'mmpretrain'
default_hooks = dict(
    checkpoint=dict(save_best='accuracy/top1'),
    visualization=dict(type='VisualizationHook', enable=False))
custom_hooks = [
    # The paper's EMA decay of 0.9995, for all variants. Whether the paper also averages the
    # statistics of the norms is not known; mmpretrain does.
    dict(type='EMAHook', momentum=5e-4, update_buffers=True),
    # Each device keeps its own statistics of the norms. Averaging them over devices makes all
    # devices validate with the statistics that the checkpoint gets.
    dict(type='SyncAveragedBuffersHook'),
    # Validation draws no random numbers from training: a run with validation trains exactly as one
    # without.
    dict(type='PreserveRandomStateHook'),
]
visualizer = dict(type='UniversalVisualizer', vis_backends={{_base_.vis_backends}}, name='visualizer')
