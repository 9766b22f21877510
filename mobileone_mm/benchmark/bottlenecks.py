"""What activations, skip connections and Squeeze-and-Excitation cost, in a plain 30-layer CNN (the paper's section 3).

The paper gives latencies on a phone for the activations (Table 2), but neither the width nor the resolution of its CNN.
Here all thirty layers are alike: a 3x3 convolution with its batch norm folded, ``width`` channels in and out, stride 1.
Of the paper's activations, DynamicReLU-A and Dynamic Shift-Max are in no mm library, and are left out.
"""
from collections.abc import Callable
from functools import partial

from mmcv.cnn import build_activation_layer
from torch import Tensor, nn

from ..layers import SqueezeExcite
from ..utils.errors import ArgumentError, require
from .contenders import Contender

DEPTH = 30
# Table 2: milliseconds on a phone.
PAPER_MS = {'ReLU': 1.53, 'GELU': 1.63, 'SE-ReLU': 2.10, 'SiLU': 2.54, 'Dynamic Shift-Max': 57.04,
            'DynamicReLU-A': 273.49, 'DynamicReLU-B': 242.14}


class PlainCNN(nn.Module):
    """Thirty 3x3 convolutions with bias, each with an activation: (N, width, H, W) -> (N, width, H, W).

    Args:
        width: Channels of every layer.
        activation: Builder of the activation of layer i, called with i from 0.
        skip_every: Add a layer's input to the output of the layer so many layers on; 0: never.
    """

    def __init__(self, width: int, activation: Callable[[int], nn.Module], skip_every: int = 0):
        super().__init__()
        self.skip_every = skip_every
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), activation(i)) for i in range(DEPTH))
        for layer in self.layers:
            # Thirty of PyTorch's own would fade to numbers so small that they are slow to compute with.
            nn.init.kaiming_normal_(layer[0].weight, nonlinearity='relu')
            nn.init.zeros_(layer[0].bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> (N, width, H, W)."""
        skip = x
        for i, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if self.skip_every and i % self.skip_every == 0:
                x = skip = x + skip
        return x


def _mm(name: str, **options) -> Callable[[int], nn.Module]:
    return lambda i: build_activation_layer(dict(type=name, **options))


def _se_relu(width: int, every: int) -> Callable[[int], nn.Module]:
    def build(i: int) -> nn.Module:
        relu = nn.ReLU(inplace=True)
        return nn.Sequential(SqueezeExcite(width), relu) if (i + 1) % every == 0 else relu

    return build


def _dynamic_relu(width: int) -> Callable[[int], nn.Module]:
    layers = require('mmdet.models.layers', 'onedl-mmdetection')
    return lambda i: layers.DyReLU(width)


def variants(width: int) -> dict[str, Callable[[], PlainCNN]]:
    """Builders of the networks by name; ``ReLU`` is what the others are compared with.

    ``SE-ReLU`` is Table 2's activation, and at the same time Squeeze-and-Excitation in every layer. ``skip over 2``
    adds every second layer's output to what came into the pair, as residual networks do.
    """
    relu, inplace = _mm('ReLU', inplace=True), dict(inplace=True)
    activations = {
        'ReLU': relu, 'no activation': lambda i: nn.Identity(), 'ReLU6': _mm('ReLU6', **inplace),
        'LeakyReLU': _mm('LeakyReLU', **inplace), 'PReLU': _mm('PReLU'), 'HSwish': _mm('HSwish', **inplace),
        'GELU': _mm('GELU'), 'SiLU': _mm('SiLU', **inplace), 'SE-ReLU': _se_relu(width, 1),
        'SE-ReLU, every 2nd': _se_relu(width, 2),
    }
    builders = {name: partial(PlainCNN, width, activation) for name, activation in activations.items()}
    builders['ReLU, skip over 1'] = partial(PlainCNN, width, relu, 1)
    builders['ReLU, skip over 2'] = partial(PlainCNN, width, relu, 2)
    builders['DynamicReLU-B'] = lambda: PlainCNN(width, _dynamic_relu(width))  # mmdet's
    return builders


def plan(width: int, size: tuple[int, int]) -> list[Callable[[], Contender]]:
    """Builders of all variants for :func:`mobileone_mm.benchmark.contenders.build_all`; ``size`` is height and width.

    Raises:
        ArgumentError: ``width`` or ``size`` is not positive.
    """
    if min(width, *size) < 1:
        raise ArgumentError(f'--width and --shape are at least 1, got {width} and {tuple(size)}.')
    return [partial(_contender, name, build, (width, *size)) for name, build in variants(width).items()]


def _contender(name: str, build: Callable[[], PlainCNN], shape: tuple[int, int, int]) -> Contender:
    return Contender(name, shape, {'deploy': build().eval()})
