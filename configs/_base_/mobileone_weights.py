# Apple's ImageNet weights, the same for all tasks. mobileone_s0.py to mobileone_s4.py put the name
# of their arch into {}.
mobileone = dict(init_cfg=dict(
    type='Pretrained',
    checkpoint='https://docs-assets.developer.apple.com/ml-research/datasets/mobileone/mobileone_{}_unfused.pth.tar'))
