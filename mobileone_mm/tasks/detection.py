"""Needs mmdet. The SSD head that also works at inference time."""
from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS

from ..mobileone import MobileOne

MODELS.register_module(module=MobileOne)  # for 'mmdet.MobileOne'; without the scope, mmengine's registry has it


@MODELS.register_module()
class SSDLiteHead(SSDHead):
    """mmdet's ``SSDHead`` with depthwise separable convolutions (SSDLite), usable for prediction.

    mmdet 3.3.0 and its successor read ``loss_cls`` when they decode predictions, which ``SSDHead`` never
    sets: it trains, and its first validation raises AttributeError (mmdetection issues 11063, 11305, 11780).
    An SSD classifies by softmax with cross-entropy written out in ``loss``, so the answer is None.

    Args:
        use_depthwise: Depthwise separable convolutions in the towers.
        **kwargs: As for ``SSDHead``.
    """

    loss_cls = None

    def __init__(self, *args, use_depthwise: bool = True, **kwargs):
        super().__init__(*args, use_depthwise=use_depthwise, **kwargs)
