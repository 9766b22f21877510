# How to fine-tune on a few images of your own (../_base_/finetune.py), shown on the drawn shapes: from
# Apple's weights, with frozen norms in the backbone. From fused weights in a local file:
#   --cfg-options model.backbone.init_cfg.checkpoint=PATH model.backbone.init_cfg.expand=True
_base_ = ['./lraspp_mobileone_s0_shapes.py', '../_base_/finetune.py']

model = dict(backbone=dict(init_cfg=dict(_delete_=True, **_base_.mobileone.init_cfg), **_base_.finetune.backbone))
train_dataloader = dict(dataset=dict(indices=200))  # as if there were no more
train_cfg = dict(_delete_=True, **_base_.finetune.train_cfg)
optim_wrapper = dict(_delete_=True, **_base_.finetune.optim_wrapper)
param_scheduler = _base_.finetune.param_scheduler
custom_hooks = _base_.finetune.custom_hooks
default_hooks = _base_.finetune.default_hooks
auto_scale_lr = _base_.finetune.auto_scale_lr
