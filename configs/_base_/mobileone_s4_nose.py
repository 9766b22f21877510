# S4 without Squeeze-and-Excitation (SE), as the paper trained it for segmentation (Table 11, †).
# Apple publishes no weights for it, so training starts from S4's weights without their SE layers
# (drop_se). In S4 only the second half of stage3 and all of stage4 have SE. Without it, the
# convolutions that follow get larger features than the statistics of their norms say, until these
# have adapted; we could not measure the effect.
_base_ = './mobileone_s4.py'

mobileone = dict(arch='s4_nose', init_cfg=dict(drop_se=True))
