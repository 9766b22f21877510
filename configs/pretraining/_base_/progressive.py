# Progressive learning: pictures of 160x160 for 38 epochs, 192x192 up to epoch 113, then 224x224. From notes on the paper; in
# its Figure 4 the loss of S0 steps there too. mmpretrain's configs do not: they give SwitchRecipeHook its pipelines under
# another name than train_pipeline, which it does not look at.
_base_ = ['./imagenet.py', './default_runtime.py']

sizes = (160, 192, 224)
phases = [[{**step, 'scale': size} if step['type'] == 'RandomResizedCrop' else step for step in _base_.train_pipeline]
          for size in sizes]
train_dataloader = dict(dataset=dict(pipeline=phases[0]))
custom_hooks = [
    *_base_.custom_hooks,
    # Epochs count from 1 here: the 39th and the 114th are the first ones of a phase.
    dict(type='SwitchRecipeHook', schedule=[
        dict(action_epoch=39, train_pipeline=phases[1]),
        dict(action_epoch=114, train_pipeline=phases[2]),
    ]),
]
