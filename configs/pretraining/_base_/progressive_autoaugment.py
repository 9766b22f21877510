# Progressive learning with AutoAugment, whose strength grows with the image size. From notes on the
# paper: for S2 to S4.
# Reconstructed: the strengths of 0.3, 0.6 and 1.0 (the paper's supplement, from memory), and what a
# strength scales (see ProgressiveAutoAugment).
_base_ = './progressive.py'

strengths = (0.3, 0.6, 1.0)
phases = [
    [*steps[:-1],
     dict(type='ProgressiveAutoAugment', policies='imagenet', strength=strength, hparams=dict(pad_val=[104, 116, 124])),
     steps[-1]]
    for steps, strength in zip(_base_.phases, strengths)]
train_dataloader = dict(dataset=dict(pipeline=phases[0]))
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(type='SwitchRecipeHook', schedule=[
        {**switch, 'train_pipeline': steps} for switch, steps in zip(_base_.custom_hooks[-1]['schedule'], phases[1:])]),
]
