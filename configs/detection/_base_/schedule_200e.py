# From notes on the paper: SGD with momentum 0.9, initial LR 0.05, weight decay 1e-4, batch size
# 192, cosine schedule, linear warm-up over 4,500 iterations that starts at 0.001 of the LR.
# Reconstructed: 200 epochs (the paper's supplement, from memory; MobileViT trains as long),
# validation every 5 epochs.
max_epochs = 200
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=4500),
    dict(
        type='CosineAnnealingLR', T_max=max_epochs, eta_min=0, begin=0, end=max_epochs, by_epoch=True,
        convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=192)
