# A detector on MobileOne, without its neck and head.
#
# The leaf configs set the arch, its channels and its weights, from configs/_base_/mobileone_*.py.
#   Weights from a local file: --cfg-options model.backbone.init_cfg.checkpoint=PATH
#   Training from scratch:     --cfg-options model.backbone.init_cfg=None
custom_imports = dict(imports=['mobileone_mm.tasks.detection'], allow_failed_imports=False)
model = dict(
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1),
    backbone=dict(type='MobileOne'))
