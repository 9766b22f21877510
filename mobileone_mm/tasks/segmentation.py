"""Needs mmseg. The DeepLabV3 head, with a clear error for a batch of one."""
from mmengine.dist import get_world_size
from mmseg.models.decode_heads import ASPPHead
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class DeepLabV3Head(ASPPHead):
    """mmseg's ``ASPPHead``, which says what is wrong where image pooling has no batch statistics.

    The image-pooling branch has one value per channel and image. In training mode, a batch norm cannot estimate a
    variance from a single image, and torch ends with "Expected more than 1 value per channel".

    Raises:
        ValueError: In training mode, a batch of one on one device.
    """

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Features -> logits, (N, num_classes, H, W) of the feature map chosen by ``in_index``."""
        if self.training and self._transform_inputs(inputs).shape[0] == 1:
            for norm in self.image_pool.modules():
                if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training and \
                        not (isinstance(norm, nn.SyncBatchNorm) and get_world_size() > 1):
                    raise ValueError(
                        'Got a batch of one image: the batch norm of the image-pooling branch needs at least two '
                        'values per channel. Set train_dataloader.batch_size to 2 or more, with drop_last=True, or '
                        "train on several GPUs with sync_bn='torch'.")
        return super().forward(inputs)
