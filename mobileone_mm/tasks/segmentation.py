"""Needs mmseg. Heads (DeepLabV3, LR-ASPP) that fit the images of our configs; test-time augmentation."""
from collections.abc import Sequence

import torch
from mmengine.dist import get_world_size
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel as MMSegTTAModel
from mmseg.models.decode_heads import ASPPHead, LRASPPHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..mobileone import MobileOne
from ..utils.errors import DataError
from ..utils.norms import BatchNorm

MODELS.register_module(module=MobileOne)  # for 'mmseg.MobileOne'; without the scope, mmengine's registry has it


@MODELS.register_module()
class DeepLabV3Head(ASPPHead):
    """mmseg's ``ASPPHead``, which says what is wrong where image pooling has no batch statistics.

    The image-pooling branch has one value per channel and image. In training mode, a batch norm cannot estimate a
    variance from a single image, and torch ends with "Expected more than 1 value per channel".

    Raises:
        DataError: In training mode, a batch of one on one device.
    """

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Features -> logits, (N, num_classes, H, W) of the feature map chosen by ``in_index``."""
        if self.training and self._transform_inputs(inputs).shape[0] == 1:
            for norm in self.image_pool.modules():
                if isinstance(norm, BatchNorm) and norm.training and \
                        not (isinstance(norm, nn.SyncBatchNorm) and get_world_size() > 1):
                    raise DataError(
                        'Got a batch of one image: the batch norm of the image-pooling branch needs at least two '
                        'values per channel. Set train_dataloader.batch_size to 2 or more, with drop_last=True, or '
                        "train on several GPUs with sync_bn='torch'.")
        return super().forward(inputs)


@MODELS.register_module()
class GlobalLRASPPHead(LRASPPHead):
    """mmseg's ``LRASPPHead`` (Lite R-ASPP, of MobileNetV3), with global average pooling, as torchvision's has it.

    mmseg's pools with a window of 49x49, and ends in "Output size is too small" where the last map is smaller, such as
    the 32x32 of an image of 512x512 at output stride 16.

    Args:
        in_channels: Of three maps, from the finest to the one with the most context.
        **kwargs: As for ``LRASPPHead``.
    """

    def __init__(self, in_channels: Sequence[int], **kwargs):
        super().__init__(in_channels=in_channels, **kwargs)
        self.image_pool[0] = nn.AdaptiveAvgPool2d(1)


class SegTTAModel(MMSegTTAModel):
    """mmseg's ``SegTTAModel``, which is right for models of one output channel too.

    For those, mmseg keeps probabilities as ``seg_logits``, and its ``SegTTAModel`` takes the sigmoid of them again: all
    are above 0.5 then, and with mmseg's threshold of 0.3 every pixel is foreground.
    """

    def merge_preds(self, data_samples_list: list[list[SegDataSample]]) -> list[SegDataSample]:
        """Views of each image -> one sample for each image, of their mean probability."""
        if self.module.out_channels > 1:
            return super().merge_preds(data_samples_list)
        merged = [views[0] for views in data_samples_list]
        for sample, views in zip(merged, data_samples_list, strict=True):
            mean = torch.stack([view.seg_logits.data for view in views]).mean(0)
            sample.seg_logits = PixelData(data=mean)
            sample.pred_sem_seg = PixelData(data=(mean > self.module.decode_head.threshold).to(mean))
        return merged
