# Example of configs/_base_/relaxation.py and of progressive learning with mmpretrain's
# SwitchRecipeHook: weight decay is annealed to a tenth, and the image size grows in three phases.
_base_ = ['./deeplabv3_mobileone_s2_shapes.py', '../_base_/relaxation.py']

custom_imports = dict(imports=[*_base_.custom_imports['imports'], 'mobileone_mm.tasks.pretraining'])
param_scheduler = [*_base_.param_scheduler, _base_.weight_decay_annealing]
phases = [[{**step, 'scale': (size, size)} if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
          for size in (96, 112, 128)]
model = dict(data_preprocessor=dict(size=None, size_divisor=1))  # no padding to one size
train_dataloader = dict(dataset=dict(pipeline=phases[0]))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='mmpretrain.SwitchRecipeHook', schedule=[
        dict(action_epoch=2, train_pipeline=phases[1]),
        dict(action_epoch=3, train_pipeline=phases[2]),
    ]),
]
