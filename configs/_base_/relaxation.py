# Regularization that relaxes as training goes on, to put into any config: weight decay annealed by cosine to a tenth over the
# whole run, as the paper anneals it from 1e-4 to 1e-5 on ImageNet. Off in the detection and segmentation configs, because the
# paper does not use it there. In a config of yours:
#
#   _base_ = ['CONFIG', '../_base_/relaxation.py']
#   param_scheduler = [*_base_.param_scheduler, _base_.weight_decay_annealing]
#
# A ratio, and not a value, so that what has no weight decay (norms under norm_decay_mult=0) gets none. By iteration, so that it
# fits loops over epochs and loops over iterations; mmengine puts the end of the run where no end is given.
weight_decay_annealing = dict(
    type='CosineAnnealingParamScheduler', param_name='weight_decay', eta_min_ratio=0.1, begin=0, by_epoch=False)
