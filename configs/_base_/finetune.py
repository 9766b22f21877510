# Fine-tuning on some hundred images of your own, from Apple's weights: a recipe of ours, without
# augmentation of its own. The norms of the backbone keep their pretrained statistics (norm_eval): a few
# images would give worse ones, and all branches then fold into one convolution, so that a step of S0's
# backbone costs a quarter on a CPU. Without pretrained weights it makes no sense. The norms of neck and head learn
# their statistics. The backbone learns at 0.3 of the LR, and there is no EMA, which would still hold the
# initial weights after so few iterations. For use in any config:
#
#   _base_ = ['CONFIG', '../_base_/finetune.py']
#   model = dict(backbone=_base_.finetune.backbone)
#   train_cfg = dict(_delete_=True, **_base_.finetune.train_cfg)
#   optim_wrapper = dict(_delete_=True, **_base_.finetune.optim_wrapper)
#   param_scheduler = _base_.finetune.param_scheduler
#   custom_hooks = _base_.finetune.custom_hooks
#   default_hooks = _base_.finetune.default_hooks
#   auto_scale_lr = _base_.finetune.auto_scale_lr
#
# together with your data and num_classes. Examples: detection/rtmdet_mobileone_s0_finetune_shapes.py
# and segmentation/lraspp_mobileone_s0_finetune_shapes.py.
max_epochs = 24
finetune = dict(
    backbone=dict(norm_eval=True),
    train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=4),
    optim_wrapper=dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
        paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.3))),
        clip_grad=dict(max_norm=10)),
    param_scheduler=[
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(
            type='CosineAnnealingLR', T_max=max_epochs, eta_min_ratio=0.01, begin=0, end=max_epochs, by_epoch=True,
            convert_to_iter_based=True),
    ],
    custom_hooks=[dict(type='SyncAveragedBuffersHook'), dict(type='PreserveRandomStateHook')],
    default_hooks=dict(checkpoint=dict(interval=1)),
    auto_scale_lr=dict(base_batch_size=8))
del max_epochs  # of the config that uses this
