"""Initialization for training from scratch in little time."""
from mmengine.model.weight_init import BaseInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from .block import MobileOneBlock


@WEIGHT_INITIALIZERS.register_module(name='NearIdentity')
class NearIdentityInit(BaseInit):
    """Let blocks with a skip branch start close to the identity: other branches' norms get a small weight.

    In a fresh block all branches weigh the same, so after forty blocks little of the input is left, and the
    first hundreds of iterations go into finding it again. The idea is that of zero-initialized residual
    branches (Goyal et al., https://arxiv.org/abs/1706.02677, section 5.1). Of use for short runs from scratch;
    the paper does not do it.

    Args:
        gamma: Weight of the norms of conv and scale branches beside a skip branch.
    """

    def __init__(self, gamma: float = 0.2):
        super().__init__()
        self.gamma = gamma

    def __call__(self, module: nn.Module) -> None:
        """Initialize the MobileOne blocks of ``module`` in the train form."""
        for block in module.modules():
            if isinstance(block, MobileOneBlock) and not block.deploy and block.skip_branch is not None:
                for branch in [*block.conv_branches, *([block.scale_branch] if block.scale_branch else [])]:
                    nn.init.constant_(branch.bn.weight, self.gamma)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())

    def _get_init_info(self) -> str:
        return f'{self.__class__.__name__}: gamma={self.gamma}'
