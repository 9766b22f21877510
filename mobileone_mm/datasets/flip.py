"""A transform for test-time augmentation."""
import mmcv
from mmcv.transforms import BaseTransform


class FlipImage(BaseTransform):
    """Flips the image and nothing else: predictions are flipped back, and compared with annotations as they are.

    mm's ``RandomFlip`` flips annotations too, so with it they have to be loaded behind it. In configs write the whole
    ``type='mobileone_mm.datasets.flip.FlipImage'``, which mmengine finds without an import.

    Args:
        direction: ``horizontal`` or ``vertical``; None leaves the image as it is.
    """

    def __init__(self, direction: str | None = None):
        self.direction = direction

    def transform(self, results: dict) -> dict:
        """Flip ``img``, and note ``flip`` and ``flip_direction``, by which mm flips predictions back."""
        if self.direction is not None:
            results['img'] = mmcv.imflip(results['img'], self.direction)
        results.update(flip=self.direction is not None, flip_direction=self.direction)
        return results
