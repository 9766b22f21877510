"""A config's model as one function from pixels to outputs, which is what an exported file holds."""
from mmengine.config import Config
from torch import nn

from ...datasets.resizing import final_size, pair
from ...engine.config import inference_pipeline
from ...utils.errors import ArgumentError, ConfigError
from ...utils.types import task_library
from .base import Deployable
from .classifier import DeployableClassifier
from .detector import DeployableDetector
from .segmentor import DeployableSegmentor

_KINDS = {'mmdet': 'detector', 'mmseg': 'segmentor', 'mmpretrain': 'classifier'}


def make_deployable(model: nn.Module, cfg: Config, nms: bool = False, argmax: bool = False) -> Deployable:
    """The deployable form of a config's model.

    Raises:
        ConfigError: The model is no detector, segmentor or classifier, or cannot be exported.
        ArgumentError: An option is for another kind of model.
    """
    scope = task_library(cfg)
    if scope not in _KINDS:
        raise ConfigError('Can export detectors of mmdet, segmentors of mmseg and classifiers of mmpretrain, got '
                          f'default_scope={scope!r} and a {type(model).__name__}.')
    if argmax and scope != 'mmseg':
        raise ArgumentError(f'argmax is for segmentors, and this is a {_KINDS[scope]}. Leave it out.')
    if nms and scope != 'mmdet':
        raise ArgumentError(f'NMS is for detectors, and this is a {_KINDS[scope]}. Leave it out.')
    if scope == 'mmdet':
        return DeployableDetector(model, nms)
    return DeployableSegmentor(model, argmax) if scope == 'mmseg' else DeployableClassifier(model)


def input_shape(cfg: Config) -> tuple[int, int]:
    """Height and width that a config tests at: what its test pipeline gives, or else its training crop.

    Raises:
        ConfigError: It has neither.
    """
    if size := final_size(inference_pipeline(cfg) or ()):
        return size
    if cfg.get('crop_size'):
        return pair(cfg.crop_size)
    raise ConfigError('The config has no fixed input size: its test pipeline has no Resize with keep_ratio=False, no '
                      'CenterCrop and no Pad with a size, and there is no crop_size. Name the size that the network '
                      'takes: --shape H W.')
