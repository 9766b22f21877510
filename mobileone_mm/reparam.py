"""The algebra of reparameterization: pure functions on tensors.

Every branch of a MobileOne block is linear once its batch norm is frozen, so a
sum of branches is one convolution (MobileOne, section 3.2; RepVGG, section 3.3).
All functions are differentiable and keep the dtype of their inputs.
"""
import torch
import torch.nn.functional as F
from torch import Tensor


def fold_bn(weight: Tensor, bias: Tensor | None, running_mean: Tensor, running_var: Tensor,
            gamma: Tensor | None, beta: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """Fold the frozen batch norm that follows a convolution into the convolution.

    ``bn(conv(x)) = t * (conv(x) - mean) + beta`` with ``t = gamma / sqrt(var + eps)``, so the
    folded kernel is ``t * weight`` and the folded bias ``beta + t * (bias - mean)``.

    Args:
        weight: Kernel, (C_out, C_in / groups, kH, kW).
        bias: Bias of the convolution, (C_out,), or None for no bias.
        running_mean: Running mean, (C_out,).
        running_var: Running variance, (C_out,).
        gamma: Scale of the norm, (C_out,), or None (``affine=False``) for 1.
        beta: Shift of the norm, (C_out,), or None for 0.
        eps: The norm's epsilon.

    Returns:
        Folded kernel, shaped as ``weight``, and folded bias, (C_out,).
    """
    t = (running_var + eps).rsqrt()
    if gamma is not None:
        t = gamma * t
    shift = -running_mean if bias is None else bias - running_mean
    folded_bias = shift * t if beta is None else beta + shift * t
    return weight * t.reshape(-1, 1, 1, 1), folded_bias


def pad_kernel(weight: Tensor, kernel_size: int) -> Tensor:
    """Zero-pad a square kernel of odd size to a larger odd size, keeping its centre.

    A 1x1 kernel lands on the centre tap, which is also where it belongs when the larger
    kernel is dilated.

    Args:
        weight: Kernel, (C_out, C_in / groups, k, k).
        kernel_size: The size wanted, odd and at least k.

    Returns:
        Kernel, (C_out, C_in / groups, kernel_size, kernel_size).
    """
    margin = (kernel_size - weight.shape[-1]) // 2
    return F.pad(weight, [margin] * 4) if margin else weight


def identity_kernel(channels: int, groups: int, kernel_size: int, like: Tensor) -> Tensor:
    """The kernel of a grouped convolution that returns its input.

    Args:
        channels: Number of input and of output channels.
        groups: Groups of the convolution.
        kernel_size: Odd kernel size; the ones stand on the centre tap.
        like: Tensor that gives dtype and device.

    Returns:
        Kernel, (channels, channels / groups, kernel_size, kernel_size).
    """
    per_group = channels // groups
    kernel = torch.zeros(channels, per_group, kernel_size, kernel_size, dtype=like.dtype, device=like.device)
    index = torch.arange(channels, device=like.device)
    kernel[index, index % per_group, kernel_size // 2, kernel_size // 2] = 1
    return kernel


def sum_kernels(kernels: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sum parallel convolutions of one geometry, each a (kernel, bias) pair, into one pair."""
    weights, biases = zip(*kernels, strict=True)
    return sum(weights[1:], weights[0]), sum(biases[1:], biases[0])


def to_float(tensor: Tensor | None) -> Tensor | None:
    """Convert a tensor in half precision to float32; others, and None, are returned as they are."""
    return tensor.float() if tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16) else tensor
