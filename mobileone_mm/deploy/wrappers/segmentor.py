"""Segmentors as one function from pixels to logits or classes."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.errors import ConfigError
from .base import Deployable


class DeployableSegmentor(Deployable):
    """A segmentor of mmseg: logits or classes at the size of the input.

    Shapes: (N, C, H, W) -> ``logits`` (N, num_classes, H, W), or with ``argmax`` ``mask`` (N, H, W), int32.

    Args:
        model: mmseg segmentor.
        argmax: Whether to give the class of each pixel.

    Raises:
        ConfigError: The segmentor predicts in another way than by one pass over the whole image.
    """

    task = 'segmentation'

    def __init__(self, model: nn.Module, argmax: bool = False):
        from mmseg.models import EncoderDecoder
        from mmseg.models.decode_heads.decode_head import BaseDecodeHead

        head = getattr(model, 'decode_head', None)
        if type(model) is not EncoderDecoder or not isinstance(head, BaseDecodeHead) \
                or type(head).predict is not BaseDecodeHead.predict \
                or type(head).predict_by_feat is not BaseDecodeHead.predict_by_feat:
            raise ConfigError(f'Cannot export {type(model).__name__} with {type(head).__name__}. Allowed are '
                              "EncoderDecoders whose head predicts as mmseg's BaseDecodeHead.")
        if model.test_cfg.get('mode') != 'whole':
            raise ConfigError(f'Cannot export test_cfg.mode={model.test_cfg.get("mode")!r}: a graph sees the whole '
                              'image at once. Set model.test_cfg.mode=whole.')
        super().__init__(model)
        self.argmax = argmax
        self.output_names = ('mask', ) if argmax else ('logits', )
        head = self.model.decode_head
        self.meta = dict(align_corners=head.align_corners, threshold=head.threshold)

    def forward(self, image: Tensor) -> Tensor:
        """Images -> logits or mask."""
        head = self.model.decode_head
        logits = head(self.model.extract_feat(self.prepare(image))).float()
        logits = F.interpolate(logits, image.shape[-2:], mode='bilinear', align_corners=head.align_corners)
        if not self.argmax:
            return logits
        return (logits[:, 0].sigmoid() > head.threshold if head.out_channels == 1 else logits.argmax(1)).to(torch.int32)
