"""The MobileOne blocks of a model: find those with branches, and put them into the deploy form."""
from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import nn

from .block import MobileOneBlock
from .kernel_cache import NOT_FINITE, is_finite
from .utils.errors import ArgumentError


def train_form_blocks(model: nn.Module) -> Iterator[tuple[str, MobileOneBlock]]:
    """The MobileOne blocks of a model that have branches, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, MobileOneBlock) and not module.deploy:
            yield name, module


def reparameterize_model(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Put every MobileOne block of a model into the deploy form, for good.

    Args:
        model: Any module, e.g. a detector or a segmentor.
        inplace: Change ``model`` itself instead of a deep copy.

    Returns:
        The model in deploy form; a ``model`` without MobileOne blocks comes back as it is.

    Raises:
        ArgumentError: A block would not fold to finite numbers. Then no block was changed.
    """
    model = model if inplace else deepcopy(model)
    with torch.no_grad():
        kernels = {name: block.fold() for name, block in train_form_blocks(model)}
    broken = [name for name, kernel in kernels.items() if not is_finite(kernel)]
    if broken:
        raise ArgumentError(f'{NOT_FINITE} Take an earlier checkpoint. It is the case in {len(broken)} blocks, the '
                            f'first is {broken[0]!r}.')
    for name, block in list(train_form_blocks(model)):
        block.switch_to_deploy(kernels.pop(name))
    return model
