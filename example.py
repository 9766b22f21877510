auto_scale_lr = dict(base_batch_size=8, enable=False)
checkpoint = 'https://docs-assets.developer.apple.com/ml-research/datasets/mobileone/mobileone_s2_unfused.pth.tar'
crop_size = (
    512,
    512,
)
custom_hooks = [
    dict(momentum=0.02, type='EMAHook', update_buffers=True),
    dict(type='SyncAveragedBuffersHook'),
    dict(type='PreserveRandomStateHook'),
]
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mobileone_mm.deeplabv3',
    ])
data_root = 'data/shapes/'
default_hooks = dict(
    checkpoint=dict(
        backend_args=dict(backend='atomic_local'),
        interval=1,
        max_keep_ckpts=2,
        rule='greater',
        save_best='mIoU',
        type='CheckpointHook'),
    checkpoint_fit=dict(ignore=[], type='CheckpointFitHook'),
    logger=dict(interval=25, type='LoggerHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    timer=dict(type='IterTimerHook'),
    visualization=dict(type='SegVisualizationHook'))
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl'),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=True, type='LogProcessor', window_size=50)
max_epochs = 6
metainfo = dict(
    classes=(
        'background',
        'circle',
        'square',
        'triangle',
        'star',
        'ring',
    ),
    palette=[
        (
            0,
            0,
            0,
        ),
        (
            220,
            60,
            60,
        ),
        (
            60,
            160,
            60,
        ),
        (
            70,
            90,
            220,
        ),
        (
            230,
            190,
            40,
        ),
        (
            170,
            70,
            190,
        ),
    ])
model = dict(
    backbone=dict(
        arch='s2',
        contract_dilation=True,
        dilations=(
            1,
            1,
            1,
            2,
        ),
        init_cfg=dict(type='NearIdentity'),
        strides=(
            2,
            2,
            2,
            1,
        ),
        type='MobileOne'),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_val=0,
        seg_pad_val=255,
        size=(
            128,
            128,
        ),
        std=[
            58.395,
            57.12,
            57.375,
        ],
        type='SegDataPreProcessor'),
    decode_head=dict(
        align_corners=False,
        channels=128,
        dilations=(
            1,
            2,
            4,
            6,
        ),
        dropout_ratio=0.1,
        in_channels=2048,
        in_index=0,
        loss_decode=dict(avg_non_ignore=True, type='CrossEntropyLoss'),
        norm_cfg=dict(type='BN'),
        num_classes=6,
        type='DeepLabV3Head'),
    test_cfg=dict(mode='whole'),
    train_cfg=dict(),
    type='EncoderDecoder')
optim_wrapper = dict(
    clip_grad=dict(max_norm=10),
    optimizer=dict(lr=0.002, type='AdamW', weight_decay=0.01),
    paramwise_cfg=dict(),
    type='OptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=100, start_factor=0.01, type='LinearLR'),
    dict(
        T_max=6,
        begin=0,
        by_epoch=True,
        convert_to_iter_based=True,
        end=6,
        eta_min=0,
        type='CosineAnnealingLR'),
]
resume = False
sync_bn = 'torch'
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=8,
    dataset=dict(
        ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(
            img_path='JPEGImages', seg_map_path='SegmentationClass'),
        data_root='data/shapes/',
        metainfo=dict(
            classes=(
                'background',
                'circle',
                'square',
                'triangle',
                'star',
                'ring',
            ),
            palette=[
                (
                    0,
                    0,
                    0,
                ),
                (
                    220,
                    60,
                    60,
                ),
                (
                    60,
                    160,
                    60,
                ),
                (
                    70,
                    90,
                    220,
                ),
                (
                    230,
                    190,
                    40,
                ),
                (
                    170,
                    70,
                    190,
                ),
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(scale=(
                128,
                128,
            ), type='Resize'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        type='BaseSegDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(scale=(
        128,
        128,
    ), type='Resize'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_cfg = dict(max_epochs=6, type='EpochBasedTrainLoop', val_interval=1)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        ann_file='ImageSets/Segmentation/train.txt',
        data_prefix=dict(
            img_path='JPEGImages', seg_map_path='SegmentationClass'),
        data_root='data/shapes/',
        metainfo=dict(
            classes=(
                'background',
                'circle',
                'square',
                'triangle',
                'star',
                'ring',
            ),
            palette=[
                (
                    0,
                    0,
                    0,
                ),
                (
                    220,
                    60,
                    60,
                ),
                (
                    60,
                    160,
                    60,
                ),
                (
                    70,
                    90,
                    220,
                ),
                (
                    230,
                    190,
                    40,
                ),
                (
                    170,
                    70,
                    190,
                ),
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(scale=(
                128,
                128,
            ), type='Resize'),
            dict(
                direction=[
                    'horizontal',
                    'vertical',
                ],
                prob=[
                    0.25,
                    0.25,
                ],
                type='RandomFlip'),
            dict(type='PackSegInputs'),
        ],
        type='BaseSegDataset'),
    drop_last=True,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=True, type='DefaultSampler'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(scale=(
        128,
        128,
    ), type='Resize'),
    dict(
        direction=[
            'horizontal',
            'vertical',
        ],
        prob=[
            0.25,
            0.25,
        ],
        type='RandomFlip'),
    dict(type='PackSegInputs'),
]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        transforms=[
            [
                dict(keep_ratio=True, scale_factor=0.5, type='Resize'),
                dict(keep_ratio=True, scale_factor=0.75, type='Resize'),
                dict(keep_ratio=True, scale_factor=1.0, type='Resize'),
                dict(keep_ratio=True, scale_factor=1.25, type='Resize'),
                dict(keep_ratio=True, scale_factor=1.5, type='Resize'),
                dict(keep_ratio=True, scale_factor=1.75, type='Resize'),
            ],
            [
                dict(prob=0.0, type='RandomFlip'),
                dict(prob=1.0, type='RandomFlip'),
            ],
            [
                dict(type='LoadAnnotations'),
            ],
            [
                dict(type='PackSegInputs'),
            ],
        ],
        type='TestTimeAug'),
]
val_cfg = dict(type='ValLoop')
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(
            img_path='JPEGImages', seg_map_path='SegmentationClass'),
        data_root='data/shapes/',
        metainfo=dict(
            classes=(
                'background',
                'circle',
                'square',
                'triangle',
                'star',
                'ring',
            ),
            palette=[
                (
                    0,
                    0,
                    0,
                ),
                (
                    220,
                    60,
                    60,
                ),
                (
                    60,
                    160,
                    60,
                ),
                (
                    70,
                    90,
                    220,
                ),
                (
                    230,
                    190,
                    40,
                ),
                (
                    170,
                    70,
                    190,
                ),
            ]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(scale=(
                128,
                128,
            ), type='Resize'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        type='BaseSegDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='IoUMetric')
vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
]
visualizer = dict(
    name='visualizer',
    type='SegLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
        dict(type='TensorboardVisBackend'),
    ])
