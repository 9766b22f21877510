_base_ = ['./_base_/deeplabv3_mobileone_s4_nose.py', './_base_/voc12aug.py']
model = dict(decode_head=dict(num_classes=21))
