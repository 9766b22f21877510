# MobileOne with a linear classifier. The leaf configs set arch and the number of channels that follows from it.
#
# From notes on the paper: label smoothing of 0.1. Input's mean and std are ImageNet's: Apple does not state them, but
# its weights give the published accuracy with these.
custom_imports = dict(imports=['mobileone_mm.tasks.pretraining'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    # Ours: the bare name would be mmpretrain's own.
    backbone=dict(type='mmengine.MobileOne', out_indices=(3, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)))
