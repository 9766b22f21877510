"""Initialization for training from scratch in little time."""
from mmengine.model.weight_init import BaseInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from .reparameterize import train_form_blocks
from .utils.checks import check_number
from .utils.errors import ArgumentError


@WEIGHT_INITIALIZERS.register_module(name='NearIdentity')
class NearIdentityInit(BaseInit):
    """Make blocks with a skip branch start close to the identity: other norms get a small weight.

    In a fresh block all branches weigh the same, so little of the input is left after forty blocks,
    and the first hundreds of iterations are spent on recovering it. The idea is that of
    zero-initialized residual branches (Goyal et al., https://arxiv.org/abs/1706.02677, section
    5.1). It helps short runs from scratch; the paper does not do it.

    Args:
        gamma: Weight of the norms of conv and scale branches beside a skip branch.
    """

    def __init__(self, gamma: float = 0.2):
        super().__init__()
        self.gamma = check_number('gamma', gamma)

    def __call__(self, module: nn.Module) -> None:
        """Initialize the MobileOne blocks of ``module`` in the train form.

        Raises:
            ArgumentError: Their norms have no weight.
        """
        for name, block in train_form_blocks(module):
            if block.skip_branch is None:
                continue
            for norm in block.norms():
                if norm.weight is None:
                    raise ArgumentError(f'NearIdentity sets the weight of norms, but those of {name or "the block"} '
                                        'have none. Leave affine=False out of norm_cfg, or NearIdentity out of '
                                        'init_cfg.')
                if norm is not block.skip_branch:
                    nn.init.constant_(norm.weight, self.gamma)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())

    def _get_init_info(self) -> str:
        return f'{self.__class__.__name__}: gamma={self.gamma}'
