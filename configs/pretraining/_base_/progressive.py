# Progressive learning: images of 160x160 for 38 epochs, 192x192 up to epoch 113, then 224x224. From
# notes on the paper; the loss of S0 in its Figure 4 has steps at these epochs too.
#
# mmpretrain's MobileOne configs never switch: they pass the pipelines to SwitchRecipeHook under
# another name than train_pipeline, which the hook ignores.
_base_ = ['./imagenet.py', './default_runtime.py']

sizes = (160, 192, 224)
phases = [[{**step, 'scale': size} if step['type'] == 'RandomResizedCrop' else step for step in _base_.train_pipeline]
          for size in sizes]
train_dataloader = dict(dataset=dict(pipeline=phases[0]))
custom_hooks = [
    *_base_.custom_hooks,
    # action_epoch counts from 1: a phase starts with the 39th and with the 114th epoch.
    dict(type='SwitchRecipeHook', schedule=[
        dict(action_epoch=39, train_pipeline=phases[1]),
        dict(action_epoch=114, train_pipeline=phases[2]),
    ]),
]
