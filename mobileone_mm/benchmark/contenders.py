"""What a benchmark compares: backbones, detectors, segmentors and their peers, each in all of its forms."""
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmcv.cnn import fuse_conv_bn
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..block import MobileOneBlock
from ..engine.config import read_config
from ..mobileone import MobileOne
from ..reparameterize import reparameterize_model
from ..utils.errors import ArgumentError, ConfigError, MissingOperatorError, MissingPackageError, require
from ..utils.files import installed_file
from ..utils.types import task_library

# mmdet's and mmseg's own networks on MobileNetV2, by their place below the package's configs.
_CONFIG_PEERS = {
    'mmdet': ('mmdet SSDLite-MobileNetV2', 'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'),
    'mmseg': ('mmseg DeepLabV3-MobileNetV2', 'mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb4-160k_ade20k-512x512.py'),
}
_BACKBONE_SIZE = (320, 320)
_SIZES = {'mmseg': (512, 512), 'mmpretrain': (224, 224)}  # a detector's is its backbone's
_PEER_ARCHS = ('s0', 's1', 's2', 's3', 's4')


@dataclass(frozen=True)
class Contender:
    """A network of random weights in its forms.

    Attributes:
        name: Its name in tables.
        shape: Channels, height and width of its input.
        forms: Form -> module of one input, frozen; ``deploy`` is always there.
    """

    name: str
    shape: tuple[int, int, int]
    forms: dict[str, nn.Module]


class DetectorOutputs(nn.Module):
    """A detector of mmdet as a module of one input: DETR and two-stage detectors also ask for the images' sizes."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> tuple:
        """(N, 3, H, W) -> the head's raw outputs."""
        size = tuple(map(int, x.shape[2:]))
        shapes = ('img_shape', 'batch_input_shape', 'pad_shape', 'ori_shape')
        meta = dict.fromkeys(shapes, size) | dict(scale_factor=(1, 1))
        from mmdet.structures import DetDataSample  # mmdet is not needed otherwise

        return self.detector(x, [DetDataSample(metainfo=meta) for _ in range(len(x))])


def make_forms(model: nn.Module) -> dict[str, nn.Module]:
    """A network as ``train`` (the sum of branches, with frozen statistics), ``eval`` and ``deploy``.

    One without MobileOne branches has no train form. In the deploy form the norms of necks, heads and other backbones
    are folded too, by mmcv's ``fuse_conv_bn``, as an exported file has them.
    """
    model.eval()
    deployed = fuse_conv_bn(reparameterize_model(model))
    if not any(isinstance(module, MobileOneBlock) and not module.deploy for module in model.modules()):
        return {'eval': model, 'deploy': deployed}
    summed = deepcopy(model)
    for module in summed.modules():
        if isinstance(module, (MobileOne, MobileOneBlock)):
            # Not train(), which would also put the norms, and dropout in a head, into training mode.
            module.training = True
            module.fast_train = False
    return {'train': summed, 'eval': model, 'deploy': deployed}


def from_config(name: str, cfg: Config, size: tuple[int, int] | None = None) -> Contender:
    """The whole network of a config: its backbone, neck and head, up to the head's raw outputs.

    Nothing is downloaded: weights stay as the constructors leave them.

    Args:
        name: Its name in tables.
        cfg: Config of an mm library.
        size: Height and width; default: 512 512 for mmseg, 224 224 for mmpretrain, 320 320 for the others.

    Raises:
        ConfigError: It needs what this mmcv does not have.
    """
    scope = task_library(cfg) or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        try:
            model = revert_sync_batchnorm(MODELS.build(cfg.model))
        except MissingOperatorError as error:
            raise ConfigError(f'{name} cannot be built: {error}') from error
    if scope == 'mmdet':
        model = DetectorOutputs(model)
    return Contender(name, (3, *(size or _SIZES.get(scope, _BACKBONE_SIZE))), make_forms(model))


def from_arch(arch: str, size: tuple[int, int] | None = None) -> Contender:
    """A backbone alone, by its name in ``ARCHS``; the default size is 320 320."""
    return Contender(arch, (3, *(size or _BACKBONE_SIZE)), make_forms(MobileOne(arch)))


def _from_mmpretrain(arch: str, size: tuple[int, int]) -> Contender:
    require('mobileone_mm.tasks.pretraining')  # which imports mmpretrain, also without torchvision
    model = require('mmpretrain.models.backbones').MobileOne(arch)
    model.eval()  # returns None
    deployed = deepcopy(model)
    deployed.switch_to_deploy()
    return Contender(f'mmpretrain {arch}', (3, *size), {'eval': model, 'deploy': deployed})


def _from_timm(arch: str, size: tuple[int, int]) -> Contender:
    model = require('timm').create_model(f'mobileone_{arch}', num_classes=0, global_pool='').eval()
    deployed = require('timm.utils').reparameterize_model(model)
    return Contender(f'timm {arch}', (3, *size), {'eval': model, 'deploy': deployed})


def _from_peer_config(scope: str, size: tuple[int, int] | None) -> Contender:
    name, path = _CONFIG_PEERS[scope]
    file = installed_file(scope, f'configs/{path}')
    if file is None:
        raise MissingPackageError(f'{name} needs {scope} with its configs; {path} was not found.')
    return from_config(name, read_config(file), size)


def plan(configs: Sequence[str], archs: Sequence[str], peers: bool,
         size: tuple[int, int] | None = None) -> list[Callable[[], Contender]]:
    """Builders of what is to be compared, in the order of the arguments.

    Args:
        configs: Config files, by whose names they go.
        archs: Backbones by name in ``ARCHS``.
        peers: Whether each kind gets its peers: backbones mmpretrain's and timm's MobileOne, detectors mmdet's
            SSDLite-MobileNetV2, segmentors mmseg's DeepLabV3-MobileNetV2.
        size: Height and width, or None for those of the kind.

    Raises:
        MissingFileError: A config does not exist.
        ConfigError: A config cannot be read, or has no model.
        ArgumentError: Two configs have one name, or ``size`` is not positive.
    """
    if size is not None and min(size) < 1:
        raise ArgumentError(f'--shape is a height and a width of at least 1, got {tuple(size)}.')
    read = {}
    for path in configs:
        name = Path(path).stem
        if name in read:
            raise ArgumentError(f'Two configs go by the name {name!r}. Name one of them, or rename a copy.')
        read[name] = read_config(path)
    archs = list(dict.fromkeys(archs))
    builders = [partial(from_config, name, cfg, size) for name, cfg in read.items()]
    builders += [partial(from_arch, arch, size) for arch in archs]
    if peers:
        scopes = {task_library(cfg) for cfg in read.values()}
        builders += [partial(_from_peer_config, scope, size) for scope in _CONFIG_PEERS if scope in scopes]
        builders += [partial(build, arch, size or _BACKBONE_SIZE) for build in (_from_mmpretrain, _from_timm)
                     for arch in archs if arch in _PEER_ARCHS]
    return builders


def build_all(builders: Sequence[Callable[[], Contender]], notes: list[str]) -> Iterator[Contender]:
    """Build one after another; what needs a missing package becomes a line of ``notes``."""
    for build in builders:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # what mm and torchvision say of themselves
                contender = build()
        except MissingPackageError as error:
            if (note := f'Left out: {error}') not in notes:
                notes.append(note)
        else:
            yield contender
