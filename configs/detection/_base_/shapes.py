# The drawn shapes (tools/make_shapes.py) at 128x128, and a schedule of a few minutes on two cores, from
# scratch. It differs from coco.py and schedule_200e.py in the data, the input size and the schedule.
_base_ = ['./coco.py', './schedule_200e.py', './default_runtime.py', '../../_base_/shapes.py']

data_root = '{{$SHAPES_ROOT:data/shapes}}/'
input_size = (128, 128)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=input_size, keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        metainfo=_base_.shapes,
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='JPEGImages/'),
        filter_cfg=dict(min_size=8),
        pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        metainfo=_base_.shapes,
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='JPEGImages/'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=0.01), clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR', T_max=max_epochs, eta_min=0, begin=0, end=max_epochs, by_epoch=True,
        convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=2))
randomness = dict(seed=0)  # so that a run can be compared with the next
auto_scale_lr = dict(base_batch_size=8)
