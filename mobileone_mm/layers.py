"""What a MobileOne block is built of besides plain convolutions, and the hooks that set their weights."""
from collections.abc import Callable

import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .arch import se_channels
from .utils.checks import check_number
from .utils.errors import ArgumentError
from .utils.types import type_name

_NORMS = ('BN', 'BN2d', 'SyncBN')
_WEIGHT_HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)
_INPLACE = ('ReLU', 'ReLU6')


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build a batch norm from mm's ``norm_cfg``, refusing what cannot be folded.

    Raises:
        ArgumentError: The norm is not a batch norm with running statistics, or does not take its arguments.
    """
    norm = None
    if isinstance(norm_cfg, dict) and type_name(norm_cfg) in (*_NORMS, 'BatchNorm2d', 'SyncBatchNorm'):
        norm = _built('norm_cfg', norm_cfg, lambda: build_norm_layer(norm_cfg, channels)[1])
    if norm is None or norm.running_mean is None:
        raise ArgumentError(f'MobileOne cannot fold the norm {norm_cfg}. Allowed are the types {", ".join(_NORMS)}, '
                            "with running statistics. Set e.g. norm_cfg=dict(type='BN').")
    check_number('norm_cfg: eps', norm.eps)
    return norm


def build_activation(act_cfg: dict | None) -> nn.Module:
    """Build an activation from mm's ``act_cfg``, in place where that is safe; None: the identity.

    Raises:
        ArgumentError: It is no dict with a type, or does not take its arguments.
    """
    if act_cfg is None:
        return nn.Identity()
    if not isinstance(act_cfg, dict) or 'type' not in act_cfg:
        raise ArgumentError(f"act_cfg must be None or a dict with a type, such as dict(type='ReLU'); got {act_cfg!r}.")
    act_cfg = dict(act_cfg)
    if type_name(act_cfg) in _INPLACE:
        act_cfg.setdefault('inplace', True)
    return _built('act_cfg', act_cfg, lambda: build_activation_layer(act_cfg))


def _built(name: str, cfg: dict, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ArgumentError(f'{name}={cfg!r} cannot be built: {error}. Correct its type or arguments.') from error


def apply_weight_hooks(conv: nn.Conv2d) -> None:
    """Run the hooks of pruning, weight norm and spectral norm, which set a convolution's weight.

    Needed where the weight is used without a call of the convolution. They are forward pre-hooks,
    of which torch has only a private list. Other hooks observe calls, so they do not run here.
    """
    for hook in conv._forward_pre_hooks.values():
        if isinstance(hook, _WEIGHT_HOOKS):
            hook(conv, ())


class SqueezeExcite(BaseModule):
    """Squeeze-and-Excitation, between the sum of the branches and the activation.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, se_channels(channels), 1)
        self.expand = nn.Conv2d(se_channels(channels), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``x``, (N, C, H, W), by their gates in 0..1."""
        gate = x.mean((2, 3), keepdim=True)
        return x * self.expand(F.relu(self.reduce(gate))).sigmoid()
