# Fine-tuning on some hundred images of your own, from Apple's weights: a recipe of ours, tried on 205
# images of blood cells (SSDLite-S0, 320x320, 12 minutes on one core: 0.70 mAP50 on the test images).
#
# The norms of the backbone keep their pretrained statistics (norm_eval): a few images would give worse
# ones, and a step then costs a fifth on S0, because all branches fold into one convolution. Those of
# neck and head learn theirs. The backbone learns at 0.3 of the LR. For use in any config:
#
#   _base_ = ['CONFIG', '../_base_/finetune.py']
#   model = dict(backbone=_base_.finetune.backbone)
#   train_cfg = dict(_delete_=True, **_base_.finetune.train_cfg)
#   optim_wrapper = dict(_delete_=True, **_base_.finetune.optim_wrapper)
#   param_scheduler = _base_.finetune.param_scheduler
#
# together with your data and num_classes; detection/rtmdet_mobileone_s0_finetune_shapes.py is an
# example. From fused weights: model = dict(backbone=dict(init_cfg=dict(expand=True,
# checkpoint='mobileone_s0_fused.pth'), **_base_.finetune.backbone)).
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
    ])
del max_epochs  # of the config that uses this
