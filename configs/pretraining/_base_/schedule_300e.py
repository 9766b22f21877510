# From notes on the paper: 300 epochs of SGD with momentum 0.9, batch 256, LR 0.1 with cosine annealing, and weight decay
# annealed by cosine from 1e-4 to 1e-5. mmpretrain's, as the paper's are not known: five epochs of linear warm-up, no weight
# decay of norms, and a last LR of 1e-6.
#
# For a shorter run, write a config that sets the epochs in all their places, as mobileone_s2_shapes.py does: the loop's, the
# schedulers', and those of SwitchRecipeHook. max_epochs in --cfg-options changes none of them.
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
