# VOC 2012 with the masks of SBD (10,582 training images), expected in data/VOCdevkit/VOC2012. Set
# the environment variable VOC_ROOT if it is elsewhere.
#
# MobileViT (and, from memory, the paper) trains jointly on COCO images with their classes mapped to
# VOC's. That is not implemented here; to come closer to the paper's numbers, create such masks and
# append a dataset to the list below. The batch size of 32 is our choice: with MobileViT's 128, 50
# epochs of VOC alone would be only 4,100 iterations.
_base_ = ['./crop512.py', './schedule_50e.py']

dataset_type = 'PascalVOCDataset'
data_root = '{{$VOC_ROOT:data/VOCdevkit/VOC2012}}/'
train_pipeline = {{_base_.train_pipeline}}
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(
                type=dataset_type,
                data_root=data_root,
                ann_file='ImageSets/Segmentation/train.txt',
                data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
                pipeline=train_pipeline),
            dict(
                type=dataset_type,
                data_root=data_root,
                ann_file='ImageSets/Segmentation/aug.txt',
                data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'),
                pipeline=train_pipeline),
        ]))
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ImageSets/Segmentation/val.txt',
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=32)  # 4 on each of 8 GPUs
