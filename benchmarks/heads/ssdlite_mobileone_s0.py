# The detector of `make demo` on S0 instead of S2.
_base_ = ['../../configs/detection/ssdlite_mobileone_s2_shapes.py']

channels = (256, 1024)
levels = (*channels, 512, 256, 256, 128)
model = dict(
    backbone=dict(arch='s0'),
    neck=dict(in_channels=channels, out_channels=levels),
    bbox_head=dict(in_channels=levels))
