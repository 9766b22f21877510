# The drawn shapes (tools/make_shapes.py) at 128x128, and a schedule of a few minutes on two cores, from
# scratch. It differs from VOC's in the data and the schedule.
_base_ = ['./crop512.py', './schedule_50e.py', '../../_base_/shapes.py']

metainfo = dict(
    classes=('background', *_base_.shapes.classes), palette=[(0, 0, 0), *_base_.shapes.palette])
data_root = '{{$SHAPES_ROOT:data/shapes}}/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(128, 128)),
    dict(type='RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128)),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type='BaseSegDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='ImageSets/Segmentation/train.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type='BaseSegDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3), paramwise_cfg=dict(_delete_=True), clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR', T_max=max_epochs, eta_min=0, begin=0, end=max_epochs, by_epoch=True,
        convert_to_iter_based=True),
]
# EMA over about 50 iterations. With 5e-4 it would span more iterations than the run has.
custom_hooks = [
    dict(type='EMAHook', momentum=0.02, update_buffers=True), dict(type='SyncAveragedBuffersHook'),
    dict(type='PreserveRandomStateHook')]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=2))
randomness = dict(seed=0)  # so that a run can be compared with the next
auto_scale_lr = dict(enable=False, base_batch_size=8)
