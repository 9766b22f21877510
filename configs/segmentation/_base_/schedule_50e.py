# 50 epochs of AdamW with weight decay 0.01, LR with cosine annealing from 1e-4 to 1e-6 after 500
# iterations of warm-up, 10 times that LR in the head: the paper's supplement, from memory. Except
# for the initial LR, MobileViT (cvnets v0.1) uses the same values.
#
# MobileViT's initial LR is 9e-4 (9e-3 in the head). 1e-4 is what the supplement is remembered to
# say, and the safer of the two for pretrained weights and a smaller batch size. Warm-up starts at a
# tenth of the LR, as in MobileViT. eta_min_ratio instead of eta_min keeps the head's factor of 10
# up to the end.
max_epochs = 50
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
    dict(
        type='CosineAnnealingLR', T_max=max_epochs, eta_min_ratio=0.01, begin=0, end=max_epochs, by_epoch=True,
        convert_to_iter_based=True),
]
