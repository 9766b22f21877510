# An example of configs/_base_/relaxation.py: weight decay annealed to a tenth. Pictures keep their size here, because SSD's
# anchors are laid out for one.
_base_ = ['./ssdlite_mobileone_s2_shapes.py', '../_base_/relaxation.py']

param_scheduler = [*_base_.param_scheduler, _base_.weight_decay_annealing]
