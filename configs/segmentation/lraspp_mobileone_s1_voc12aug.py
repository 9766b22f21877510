_base_ = ['./_base_/lraspp_mobileone_s1.py', './_base_/voc12aug.py']
model = dict(decode_head=dict(num_classes=21))
