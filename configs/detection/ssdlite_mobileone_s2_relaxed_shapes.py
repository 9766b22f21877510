# Example of configs/_base_/relaxation.py: weight decay is annealed to a tenth. The image size stays
# the same, because SSD's anchors are designed for one size.
_base_ = ['./ssdlite_mobileone_s2_shapes.py', '../_base_/relaxation.py']

param_scheduler = [*_base_.param_scheduler, _base_.weight_decay_annealing]
