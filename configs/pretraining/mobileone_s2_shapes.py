# The example that needs no download: S2 learns to classify drawn shapes (tools/make_shapes.py), one
# per image, in a few minutes on two cores. It has all parts of the ImageNet recipe at a smaller
# scale: three image sizes with AutoAugment of growing strength, annealed weight decay, label
# smoothing, EMA.
_base_ = ['./mobileone_s2_in1k.py', '../_base_/shapes.py']

data_root = '{{$SHAPES_ROOT:data/shapes}}/single/'
model = dict(
    data_preprocessor=dict(num_classes=len(_base_.shapes.classes)),
    backbone=dict(init_cfg=dict(type='NearIdentity')),
    head=dict(num_classes=len(_base_.shapes.classes), topk=(1, )))

# The pipelines of ImageNet's three phases, with smaller images and with crops that keep a shape
# recognizable.
phases = [
    [{**step, 'scale': size, 'crop_ratio_range': (0.5, 1.0)} if step['type'] == 'RandomResizedCrop' else step
     for step in steps] for steps, size in zip(_base_.phases, (48, 56, 64))]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), backend='pillow'),
    dict(type='PackInputs'),
]
dataset = dict(type='CustomDataset', metainfo=dict(classes=_base_.shapes.classes), data_root=data_root)
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        _delete_=True, **dataset, ann_file='meta/train.txt', data_prefix='train', pipeline=phases[0]))
val_dataloader = dict(
    num_workers=1,
    dataset=dict(_delete_=True, **dataset, ann_file='meta/val.txt', data_prefix='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator

max_epochs = 5
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-3, weight_decay=0.05), clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR', T_max=max_epochs, eta_min=0, begin=0, end=max_epochs, by_epoch=True,
        convert_to_iter_based=True),
    _base_.weight_decay_annealing,
]
custom_hooks = [
    # EMA over about 50 iterations. With 5e-4 it would span more iterations than the run has.
    {**_base_.custom_hooks[0], 'momentum': 0.02},
    *_base_.custom_hooks[1:-1],
    dict(type='SwitchRecipeHook', schedule=[
        dict(action_epoch=2, train_pipeline=phases[1]),
        dict(action_epoch=3, train_pipeline=phases[2]),
    ]),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=2))
auto_scale_lr = dict(base_batch_size=16)
