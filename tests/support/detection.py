"""Options for very short runs of a detector on the drawn shapes."""
from .runs import cfg_options, logged
from .tiny import arch_options

SHAPES = 'configs/detection/ssdlite_mobileone_s2_shapes.py'


def options(arch='tiny', epochs=2, **more):
    """--cfg-options for a very short run."""
    channels = dict(tiny=(64, 128), s0=(256, 1024), s2=(640, 2048))[arch]
    levels = (*channels, *((32, 32, 32, 32) if arch == 'tiny' else (512, 256, 256, 128)))
    settings = {
        **arch_options(arch), 'model.neck.in_channels': channels, 'model.neck.out_channels': levels,
        'model.bbox_head.in_channels': levels, 'train_cfg.max_epochs': epochs, 'train_dataloader.batch_size': 4,
        'model.test_cfg.score_thr': 0.001,
    }
    return cfg_options(**settings | more)


def metrics(folder):
    return logged(folder, 'coco/bbox_mAP')
