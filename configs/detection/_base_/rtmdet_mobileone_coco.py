# The recipe of mmdet's rtmdet_tiny. We have not trained it on COCO.
_base_ = ['./rtmdet_mobileone.py', './coco_mosaic.py', './schedule_300e.py', './default_runtime.py']

# SyncBN on several GPUs, as in mmdet, plain batch norm on one device.
sync_bn = 'torch'
default_hooks = dict(checkpoint=dict(interval=_base_.interval))
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),  # mmdet's
    dict(
        type='PipelineSwitchHook',
        switch_epoch=_base_.max_epochs - _base_.stage2_num_epochs,
        switch_pipeline=_base_.train_pipeline_stage2),
    *_base_.custom_hooks,
]
