# VOC 2012 with SBD's masks (10,582 pictures to train on). Set VOC_ROOT where VOC2012 does not lie in data/VOCdevkit.
#
# MobileViT (and, from memory, the paper) trains jointly on COCO's pictures mapped to VOC's classes, which is not built
# here; to come nearer to the paper's numbers, write those masks and append a data set to the list below. Batch 32 is
# ours: MobileViT's 128 would leave 4,100 iterations in 50 epochs of VOC alone.
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
