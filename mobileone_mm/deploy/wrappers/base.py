"""What exported models have in common: pixels in, normalized inside."""
import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from ...reparameterize import reparameterize_model


class Deployable(nn.Module):
    """Takes images, (N, C, H, W), float32 from 0 to 255, and prepares them as the model's data preprocessor does.

    Three channels are RGB. Others are in the order in which the config's pipeline loads them: one is gray, and the four
    of a PNG are BGR and alpha.

    The model is copied, put into the deploy form and in eval mode; the norms of neck and head are folded too.
    """

    task: str
    output_names: tuple[str, ...]
    meta: dict = {}  # what else a reader of the file needs
    has_loops = False  # whether the graph may have a loop, which few exporters know

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = fuse_conv_bn(revert_sync_batchnorm(reparameterize_model(model)).eval())
        preprocessor = self.model.data_preprocessor
        # mm reads images in BGR, and most models turn them into RGB: those take ours as they are.
        self.takes_rgb = bool(getattr(preprocessor, 'channel_conversion', False)
                              or getattr(preprocessor, '_channel_conversion', False)
                              or getattr(preprocessor, 'to_rgb', False))  # mmpretrain's
        self.channels = next(module.in_channels for module in self.model.modules() if isinstance(module, nn.Conv2d))
        normalizes = getattr(preprocessor, '_enable_normalize', False)
        mean = preprocessor.mean.view(1, -1, 1, 1) if normalizes else torch.zeros(1, 1, 1, 1)
        # Not called "mean": on torch 2.6, outputs of ONNX nodes get the names of their operators beside it.
        self.register_buffer('pixel_mean', mean)
        self.register_buffer('pixel_scale', 1 / preprocessor.std.view(1, -1, 1, 1) if normalizes
                             else torch.ones(1, 1, 1, 1))
        self.eval()

    def fix_size(self, image: Tensor) -> None:
        """Compute beforehand what depends on the size of an input only; from then on it takes no other size."""

    @property
    def divisor(self) -> int:
        """What height and width have to be multiples of; mm would pad, and a graph does not."""
        preprocessor = self.model.data_preprocessor
        return max(getattr(preprocessor, 'pad_size_divisor', 1),
                   (getattr(preprocessor, 'test_cfg', None) or {}).get('size_divisor', 1))

    def prepare(self, image: Tensor) -> Tensor:
        """Channel order and normalization."""
        image = image if self.takes_rgb or self.channels != 3 else image.flip(1)
        return ((image - self.pixel_mean) * self.pixel_scale).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the network's weights; images and outputs are float32."""
        return next(self.model.parameters()).dtype

    def half_network(self) -> 'Deployable':
        """The network in half precision; what comes before and after it stays in single."""
        self.model.backbone.half()
        for name in ('neck', 'bbox_head', 'decode_head', 'head'):
            if getattr(self.model, name, None) is not None:
                getattr(self.model, name).half()
        return self
