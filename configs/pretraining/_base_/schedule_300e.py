# From notes on the paper: 300 epochs of SGD with momentum 0.9, batch size 256, LR 0.1 with cosine
# annealing, and weight decay with cosine annealing from 1e-4 to 1e-5.
# From mmpretrain, because the paper's values are not known: five epochs of linear warm-up, no
# weight decay of norms, and a final LR of 1e-6.
#
# A shorter run needs a config that sets the number of epochs in three places, as
# mobileone_s2_shapes.py does: train_cfg, param_scheduler, and SwitchRecipeHook in custom_hooks.
# `--cfg-options max_epochs=N` changes none of these.
_base_ = '../../_base_/relaxation.py'

max_epochs = 300
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.))
warmup_epochs = 5
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=warmup_epochs, by_epoch=True, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', T_max=max_epochs - warmup_epochs, eta_min=1e-6, begin=warmup_epochs, end=max_epochs,
        by_epoch=True, convert_to_iter_based=True),
    {{_base_.weight_decay_annealing}},
]
auto_scale_lr = dict(enable=False, base_batch_size=256)
