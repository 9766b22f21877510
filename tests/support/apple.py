"""Apple's S0 with its real weights, and the 25 real images of ImageNet."""
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import nn

from mobileone_mm import MobileOne
from mobileone_mm.checkpoint.read import read_checkpoint

from .paths import real_data


class Classifier(nn.Module):
    """Apple's S0 with its classifier: (N, 3, 224, 224) in RGB, 0 to 255, -> logits."""

    def __init__(self, checkpoint):
        super().__init__()
        weights = read_checkpoint(str(checkpoint))
        self.backbone = MobileOne('s0', deploy=True, init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)))
        self.backbone.init_weights()
        self.linear = nn.Linear(1024, 1000)
        self.linear.load_state_dict({key: weights[f'linear.{key}'] for key in ('weight', 'bias')})
        self.register_buffer('mean', torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1))
        self.register_buffer('std', torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1))

    def forward(self, image):
        return self.linear(self.backbone((image - self.mean) / self.std)[0].mean((2, 3)))


def apples_classifier():
    return Classifier(real_data('mobileone_s0_fused') / 'mobileone_s0_fused.pth').eval()


def imagenet_images() -> Iterator[tuple[np.ndarray, int]]:
    """Images, (1, 3, 224, 224), RGB, 0 to 255, with their labels: short side 256, the middle cut out."""
    folder = real_data('imagenet_val25')
    for line in (folder / 'meta' / 'val.txt').read_text().split('\n'):
        if line:
            name, label = line.split()
            pixels = cv2.imread(str(next(folder.rglob(name.rpartition('/')[2]))))[..., ::-1]
            scale = 256 / min(pixels.shape[:2])
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            top, left = (pixels.shape[0] - 224) // 2, (pixels.shape[1] - 224) // 2
            yield pixels[top:top + 224, left:left + 224].transpose(2, 0, 1)[None].astype(np.float32), int(label)
