# MobileOne with a linear classifier, trained from scratch. The leaf configs set the arch and its
# channels, from configs/_base_/mobileone_*.py, but do not use the weights that these name.
#
# From notes on the paper: label smoothing of 0.1. Apple does not state the mean and std of the
# input; with ImageNet's, Apple's weights give the published accuracy.
custom_imports = dict(imports=['mobileone_mm.tasks.pretraining'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    # The scope selects this package's MobileOne; 'MobileOne' alone would be mmpretrain's.
    backbone=dict(type='mmengine.MobileOne', out_indices=(3, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)))
