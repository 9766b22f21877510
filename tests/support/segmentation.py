"""A segmentor, batches as of a dataloader, and options for very short runs on the drawn shapes."""
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules

from .paths import ROOT
from .runs import cfg_options
from .tiny import arch_options

SHAPES = 'configs/segmentation/deeplabv3_mobileone_s2_shapes.py'


def segmentor(name='s0_voc12aug', **backbone):
    """A segmentor as the config builds it, but from scratch."""
    register_all_modules()
    cfg = Config.fromfile(ROOT / 'configs' / 'segmentation' / f'deeplabv3_mobileone_{name}.py')
    cfg.model.backbone.init_cfg = None
    cfg.model.backbone.update(backbone)
    return MODELS.build(cfg.model)


def images(*sizes, labels=None):
    """A batch as of a dataloader: uint8 images, and the truth, all ``labels`` or random."""
    generator = torch.Generator().manual_seed(0)
    inputs, samples = [], []
    for size in sizes:
        inputs.append(torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8))
        truth = torch.full((1, *size), labels) if labels is not None else \
            torch.randint(0, 21, (1, *size), generator=generator)
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        sample.gt_sem_seg = PixelData(data=truth)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def options(**more):
    """--cfg-options for a very short run."""
    return cfg_options(**{'train_cfg.max_epochs': 1, 'train_dataloader.batch_size': 2} | more)


def tiny_options(**more):
    """The same, with a network that trains in seconds."""
    return options(**arch_options('tiny'),
                   **{'model.decode_head.in_channels': 128, 'model.decode_head.channels': 16} | more)
