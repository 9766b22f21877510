_base_ = './deeplabv3_mobileone.py'

# S4 without Squeeze-and-Excitation, as the paper trained it (Table 11, †). Apple publishes no such weights; ours start
# from those of S4 with its gates left out, which only touch the second half of stage3 and stage4. What follows a gate
# then sees larger features than its norm's statistics say, until these have settled; we could not measure the effect.
checkpoint = 'https://docs-assets.developer.apple.com/ml-research/datasets/mobileone/mobileone_s4_unfused.pth.tar'
model = dict(
    backbone=dict(arch='s4_nose', init_cfg=dict(type='Pretrained', checkpoint=checkpoint, drop_se=True)),
    decode_head=dict(in_channels=2048))
