# Cosine annealing of weight decay to a tenth of its value over the whole run, for use in any
# config. On ImageNet the paper anneals it so from 1e-4 to 1e-5. The detection and segmentation
# configs do not use it, because the paper does not use it there. To use it in your own config:
#
#   _base_ = ['CONFIG', '../_base_/relaxation.py']
#   param_scheduler = [*_base_.param_scheduler, _base_.weight_decay_annealing]
#
# eta_min_ratio instead of eta_min: parameters without weight decay (norms, if norm_decay_mult=0)
# stay without it. by_epoch=False works for both EpochBasedTrainLoop and IterBasedTrainLoop. Without
# `end`, mmengine anneals up to the end of the run.
weight_decay_annealing = dict(
    type='CosineAnnealingParamScheduler', param_name='weight_decay', eta_min_ratio=0.1, begin=0, by_epoch=False)
