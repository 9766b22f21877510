# Runtime settings of detection, segmentation and pretraining.
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # This backend writes a temporary file and renames it, so an interrupted run leaves no partial
    # checkpoint.
    checkpoint=dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=3, rule='greater', backend_args=dict(backend='atomic_local')),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # Raises an error if a checkpoint of the whole model (load_from, --resume, test) does not fit.
    # With ignore=['bbox_head.cls_convs'], for example, parameters whose names start with that are
    # not loaded and keep their initial values.
    checkpoint_fit=dict(type='CheckpointFitHook', ignore=[]),
    # Raises an error if classes have other names, or another order, than in the data.
    class_names_fit=dict(type='ClassNamesFitHook'),
    # Raises an error if a head's num_classes is not the number of classes of the dataset.
    num_classes_fit=dict(type='NumClassesFitHook'),
    # Raises an error if a COCO file lacks what is read of it, or does not fit its images.
    coco_fit=dict(type='CocoFitHook'),
    # Raises an error if masks have other labels than the classes.
    masks_fit=dict(type='MasksFitHook'),
    # Ends a training whose loss or weights are no numbers, before a checkpoint of it is saved.
    divergence=dict(type='DivergenceHook'),
    # A resumed run deletes checkpoints of its own work dir only.
    own_checkpoints=dict(type='OwnCheckpointsHook'),
    # Resumed on another number of devices, schedules still end with the last epoch.
    resume_schedule=dict(type='ResumeScheduleHook'))

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

log_level = 'INFO'
load_from = None
resume = False
