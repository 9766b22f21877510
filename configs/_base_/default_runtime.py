# What detection and segmentation share at run time.
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # The backend writes a file beside its place and moves it there: an interrupted run leaves no half checkpoint.
    checkpoint=dict(
        type='CheckpointHook', interval=1, max_keep_ckpts=3, rule='greater', backend_args=dict(backend='atomic_local')),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # A checkpoint of the whole model fits, or it is an error; ignore=['bbox_head.cls_convs'] leaves out what begins so.
    checkpoint_fit=dict(type='CheckpointFitHook', ignore=[]),
    # All heads have as many classes as the data sets.
    num_classes_fit=dict(type='NumClassesFitHook'))

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

log_level = 'INFO'
load_from = None
resume = False
