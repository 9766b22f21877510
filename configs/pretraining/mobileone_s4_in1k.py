_base_ = './_base_/mobileone_autoaugment_in1k.py'

model = dict(backbone=dict(arch='s4'), head=dict(in_channels=2048))
