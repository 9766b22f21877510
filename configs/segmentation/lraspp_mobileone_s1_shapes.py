# LR-ASPP on S1, on drawn shapes (tools/make_shapes.py), at 128x128, trained from scratch in six minutes on
# two cores. It differs from the VOC config in the data and the schedule (_base_/shapes.py), which has one
# epoch more and twice the learning rate here, and the initialization.
_base_ = ['./_base_/lraspp_mobileone_s1.py', './_base_/shapes.py']

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(init_cfg=dict(_delete_=True, type='NearIdentity')),
    decode_head=dict(num_classes=len(_base_.metainfo.classes)))
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
param_scheduler = [
    _base_.param_scheduler[0],
    {**_base_.param_scheduler[1], 'T_max': max_epochs, 'end': max_epochs},
]
