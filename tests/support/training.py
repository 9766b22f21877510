"""A model, its data and its metric, for trainings in the real Runner that take a second."""
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel

from mobileone_mm import ARCHS, MobileOne

from .reference import randomize, reference_maps

ARCH = ARCHS['s0'] | dict(num_blocks=(1, 1, 2, 1), num_conv_branches=2)


def backbone(seed=0):
    torch.manual_seed(seed)
    return randomize(MobileOne(ARCH, out_indices=(0, 1, 2, 3)), seed)


class Model(BaseModel):
    """A backbone that learns to output 1, and compares each prediction with the branch formula."""

    def __init__(self, stay_random=False):
        super().__init__()
        self.backbone = backbone()

    def forward(self, x, mode):
        if mode == 'loss':
            return dict(loss=(self.backbone(x)[-1].mean() - 1).square())
        maps = self.backbone(x)
        for got, expected in zip(maps, reference_maps(self.backbone, x), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())
        return [maps[-1].mean().item()]

    def train_step(self, data, optim_wrapper):
        losses = self(torch.stack(data), 'loss')
        optim_wrapper.update_params(losses['loss'])
        return losses

    def val_step(self, data):
        return self(torch.stack(data), 'predict')

    test_step = val_step


class Mean(BaseMetric):

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return dict(mean=sum(results) / len(results))


IMAGES = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(4)]


def loader(shuffle):
    return dict(batch_size=2, num_workers=0, dataset=IMAGES, collate_fn=dict(type='pseudo_collate'),
                sampler=dict(type='DefaultSampler', shuffle=shuffle))
