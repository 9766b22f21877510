"""A config's model as one function from pixels to outputs, which is what an exported file holds."""
from collections.abc import Sequence

from mmengine.config import Config
from torch import nn

from ...engine.config import inference_pipeline
from ...utils.errors import ArgumentError, ConfigError
from ...utils.types import task_library, type_name
from .base import Deployable
from .detector import DeployableDetector
from .segmentor import DeployableSegmentor


def make_deployable(model: nn.Module, cfg: Config, nms: bool = False, argmax: bool = False) -> Deployable:
    """The deployable form of a config's model.

    Raises:
        ConfigError: The model is neither a detector nor a segmentor, or cannot be exported.
        ArgumentError: An option is for the other kind of model.
    """
    scope = task_library(cfg)
    if scope == 'mmdet':
        if argmax:
            raise ArgumentError('argmax is for segmentors, and this is a detector. Leave it out.')
        return DeployableDetector(model, nms)
    if scope == 'mmseg':
        if nms:
            raise ArgumentError('NMS is for detectors, and this is a segmentor. Leave it out.')
        return DeployableSegmentor(model, argmax)
    raise ConfigError('Can export detectors of mmdet and segmentors of mmseg, got '
                      f'default_scope={scope!r} and a {type(model).__name__}.')


def input_shape(cfg: Config) -> tuple[int, int]:
    """Height and width that a config tests at: what its test pipeline resizes to, or else its training crop.

    Raises:
        ConfigError: It has neither.
    """
    for step in inference_pipeline(cfg) or ():
        if type_name(step) == 'Resize' and 'scale' in step and not step.get('keep_ratio', False):
            return _pair(step['scale'])[::-1]
    if cfg.get('crop_size'):
        return _pair(cfg.crop_size)
    raise ConfigError('The config has no fixed input size: its test pipeline has no Resize with keep_ratio=False, and '
                      'there is no crop_size. Name the size that the network takes: --shape H W.')


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
