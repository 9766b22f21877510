"""Single blocks of all geometries."""
import itertools

import torch

from mobileone_mm import MobileOneBlock

from .reference import randomize

GEOMETRIES = [
    dict(in_channels=8, out_channels=8, kernel_size=k, stride=s, dilation=d, groups=g, num_conv_branches=n, with_se=se)
    for k, s, d, g, n, se in itertools.product((1, 3, 5), (1, 2), (1, 3), (1, 8), (1, 4), (False, True))
    if k > 1 or d == 1
] + [dict(in_channels=3, out_channels=16, kernel_size=3, stride=2), dict(in_channels=8, out_channels=12, kernel_size=1)]


def make_block(geometry, seed=0, **kwargs):
    torch.manual_seed(seed)
    if geometry.get('with_se'):
        geometry = geometry | dict(in_channels=32, out_channels=32)
    return randomize(MobileOneBlock(**geometry, **kwargs), seed).double().eval()
