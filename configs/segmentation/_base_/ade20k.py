# ADE20K (ADEChallengeData2016, 20,210 training images), expected in data/ade. Set the environment
# variable ADE_ROOT if it is elsewhere.
#
# Augmentation and schedule are those of VOC: the paper's supplement, from memory, gives one recipe
# for both. The batch size of 16 is that of cvnets for ADE20K; the paper's is not known.
_base_ = ['./crop512.py', './schedule_50e.py']

dataset_type = 'ADE20KDataset'  # label 0 is ignored (reduce_zero_label)
data_root = '{{$ADE_ROOT:data/ade/ADEChallengeData2016}}/'
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=16)  # 2 on each of 8 GPUs
