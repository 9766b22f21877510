"""Fused kernels turned into branches that can be trained further."""
import torch
from torch import Tensor, nn

from ..reparameterize import train_form_blocks
from ..utils.errors import ArgumentError, CheckpointError
from ..utils.norms import BatchNorm
from .fit import check_fit
from .layouts import is_fused, translate_state_dict


@torch.no_grad()
def expand_state_dict(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Turn fused weights into weights of the train form with the same output in ``eval()``.

    The fused kernel W, b of a block goes into its first conv branch, whose norm gets mean 0,
    variance 1, weight sqrt(1 + eps) and bias b. All other norms of the block get weight 0 and bias
    0; the convolutions of these branches keep their values in ``model``, and take effect as the
    norms' weights leave 0.

    This does not restore the branches that were trained: what each of them had learned, and the
    statistics of their norms, are lost in fused weights. Before further training, the norms need
    the statistics of data (:func:`.calibrate_norms`, or ``CalibrateNormsHook`` in a config); without
    them the outputs in ``train()`` are off.

    Args:
        state_dict: Fused weights of any known layout; a classifier is left out.
        model: ``MobileOne`` in the train form, with affine norms; it is not changed.

    Raises:
        CheckpointError: These are no fused weights, or they do not fit the arch of ``model``.
        ArgumentError: ``model`` is in the deploy form, or its norms have no weight and bias.
    """
    if model.deploy:
        raise ArgumentError('Got a model in the deploy form, which loads fused weights as they are. Leave expand out.')
    fused, _ = translate_state_dict(state_dict)
    if not is_fused(fused):
        raise CheckpointError('Got weights of the train form, which have all branches. Leave expand=True out.')
    check_fit(fused, model)
    expanded = {key: value.clone() for key, value in model.state_dict().items()}
    for name, block in train_form_blocks(model):
        for norm_name, norm in block.named_modules(prefix=name):
            if not isinstance(norm, BatchNorm):
                continue
            if not norm.affine:
                raise ArgumentError(f'Expanding needs norms with weight and bias, got {norm}. Leave affine=False out.')
            for parameter, value in (('weight', 0), ('bias', 0), ('running_mean', 0), ('running_var', 1)):
                expanded[f'{norm_name}.{parameter}'].fill_(value)
            expanded[f'{norm_name}.num_batches_tracked'].zero_()
        first = f'{name}.conv_branches.0'
        expanded[f'{first}.conv.weight'].copy_(fused.pop(f'{name}.reparam_conv.weight'))
        expanded[f'{first}.bn.weight'].fill_((1 + block.conv_branches[0].bn.eps) ** 0.5)
        expanded[f'{first}.bn.bias'].copy_(fused.pop(f'{name}.reparam_conv.bias'))
    expanded.update(fused)  # Squeeze-and-Excitation
    return expanded

