_base_ = ['./_base_/lraspp_mobileone_s2.py', './_base_/ade20k.py']
model = dict(decode_head=dict(num_classes=150))
