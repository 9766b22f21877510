"""Live batch norms at less cost: a training step on the CPU that computes once what the branches of a block share.

Before its activation a block is linear apart from the batch statistics, and most of these follow from the input's. With the
mean m and the covariance M of the input x over N, H and W (per channel for a depthwise branch, where M is the variance v):

    pointwise branch, kernel W:        mean W m,  variance diag(W M W^T)
    depthwise 1x1 branch, kernel w:    mean w m,  variance w^2 v
    skip branch:                       mean m,    variance v

So k pointwise branches and the skip fold into one convolution before any of their outputs exists, and the scale and skip
branch of a depthwise block are one affine map of each channel. What is left, norms of convolutions' outputs, takes its
statistics by two reductions, which on the CPU are far quicker than torch's own. ``benchmarks/train_step.py`` measures it.

Gradients are exact, to the input and to every parameter, but cannot be differentiated once more.
"""
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm


def is_exact(block: nn.Module, x: Tensor) -> bool:
    """Whether :func:`sum_branches` does what the branches would: on the CPU, with plain norms in training mode.

    Not where something is to see or to change the branches' own calls: hooks, tracing, compiling, autocast, SyncBN.
    """
    if x.device.type != 'cpu' or x.dtype not in (torch.float32, torch.float64) or not x.is_contiguous() \
            or torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled('cpu') \
            or x.numel() <= x.shape[1]:  # a single value per channel, which torch refuses
        return False
    branches = [*block.conv_branches, *([] if block.scale_branch is None else [block.scale_branch])]
    norms = [branch.bn for branch in branches] + ([] if block.skip_branch is None else [block.skip_branch])
    return all(type(branch.conv) is nn.Conv2d and branch.conv.bias is None for branch in branches) \
        and all(isinstance(norm, _BatchNorm) and not isinstance(norm, nn.SyncBatchNorm) and norm.training
                and norm.weight is not None and norm.running_mean is not None and norm.weight.dtype == x.dtype
                for norm in norms) \
        and len({norm.eps for norm in norms}) == 1 \
        and not any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                    or module._backward_pre_hooks for module in block.modules() if module is not block)


def sum_branches(block: nn.Module, x: Tensor) -> Tensor:
    """The sum of a :class:`MobileOneBlock`'s branches, with running statistics updated as the norms would.

    Args:
        block: Block for which :func:`is_exact` is true.
        x: Input, (N, C_in, H, W).

    Returns:
        Output before Squeeze-and-Excitation and activation, (N, C_out, H', W').
    """
    if block.kernel_size == 1 and block.groups == 1 and block.stride == 1 and _covariance_pays(block, x):
        return _shared_pointwise(block, x)
    centre = x[..., ::block.stride, ::block.stride] if block.stride > 1 else x
    is_depthwise = block.groups == block.in_channels == block.out_channels
    convs = [(branch, branch.conv(x)) for branch in block.conv_branches]
    channelwise = []
    if block.scale_branch is not None:
        if is_depthwise:
            channelwise.append((block.scale_branch.bn, block.scale_branch.conv.weight.flatten()))
        else:
            convs.append((block.scale_branch, block.scale_branch.conv(centre)))
    if block.skip_branch is not None:
        channelwise.append((block.skip_branch, None))
    scale, shift = _fold_channelwise(channelwise, centre) if channelwise else (None, 0)
    out = None
    for branch, y in convs:
        term = _batch_norm(branch.bn, y, shift if out is None else 0)
        out = term if out is None else out + term
    return out if scale is None else torch.addcmul(out, centre, _per_channel(scale))


def _per_channel(values: Tensor) -> Tensor:
    return values.reshape(1, -1, 1, 1)


def _count(x: Tensor) -> int:
    """Values per channel."""
    return x.numel() // x.shape[1]


def _mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel, biased; of the centred values, so that a large mean costs no digits."""
    mean = x.sum((0, 2, 3)) / _count(x)
    return mean, torch.linalg.vector_norm(x - _per_channel(mean), dim=(0, 2, 3)).square() / _count(x)


@torch.no_grad()
def _update_running_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    norm.num_batches_tracked.add_(1)
    momentum = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), momentum)


class _ChannelMoments(torch.autograd.Function):
    """(N, C, H, W) -> mean (C,), biased variance (C,)."""

    @staticmethod
    def forward(ctx, x):
        mean, variance = _mean_and_variance(x)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_mean, grad_variance):
        x, mean = ctx.saved_tensors
        slope = 2 * grad_variance / _count(x)
        return torch.addcmul(_per_channel(grad_mean / _count(x) - slope * mean), x, _per_channel(slope))


def _fold_channelwise(branches: list[tuple[_BatchNorm, Tensor | None]], x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, (C,) each, of all branches that multiply channels of ``x`` by a weight (None: 1) and normalize."""
    mean, variance = _ChannelMoments.apply(x)
    scale, shift = 0, 0
    for norm, weight in branches:
        own_mean, own_variance = (mean, variance) if weight is None else (weight * mean, weight.square() * variance)
        t = norm.weight * (own_variance + norm.eps).rsqrt()
        scale = scale + (t if weight is None else t * weight)
        shift = shift + norm.bias - own_mean * t
        _update_running_statistics(norm, own_mean, own_variance, _count(x))
    return scale, shift


class _BatchNorm2d(torch.autograd.Function):
    """Batch norm in training mode: y (N, C, H, W), weight, bias -> output, mean, biased variance."""

    @staticmethod
    def forward(ctx, y, weight, bias, eps):
        mean, variance = _mean_and_variance(y)
        inverse = (variance + eps).rsqrt()
        ctx.eps = eps
        ctx.save_for_backward(y, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        t = inverse * weight
        return torch.addcmul(_per_channel(bias - mean * t), y, _per_channel(t)), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        y, weight, mean, inverse = ctx.saved_tensors
        return (*torch.ops.aten.native_batch_norm_backward(
            grad, y, weight, None, None, mean, inverse, True, ctx.eps, [True, True, True]), None)


def _batch_norm(norm: _BatchNorm, y: Tensor, shift: Tensor | int) -> Tensor:
    """A norm of ``y``, plus a shift per channel."""
    out, mean, variance = _BatchNorm2d.apply(y, norm.weight, norm.bias + shift, norm.eps)
    _update_running_statistics(norm, mean, variance, _count(y))
    return out


def _covariance_pays(block: nn.Module, x: Tensor) -> bool:
    """Whether the covariance and one convolution take fewer multiplications than k convolutions."""
    c_in, c_out, k = block.in_channels, block.out_channels, block.num_conv_branches
    folded = _count(x) * c_in * (c_in + c_out) + k * c_out * c_in ** 2
    return folded < 0.8 * k * _count(x) * c_in * c_out


def _fold_pointwise(k: int, eps: float, mean: Tensor, covariance: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    """Kernel and bias of k pointwise branches (and the skip, where it has parameters), and the branches' statistics."""
    weights = torch.cat(parameters[:k]).flatten(1)
    scales, shifts = torch.cat(parameters[k:2 * k]), torch.cat(parameters[2 * k:3 * k])
    own_mean = weights @ mean
    own_variance = ((weights @ covariance) * weights).sum(1)
    t = scales * (own_variance + eps).rsqrt()
    weight = (weights * t.unsqueeze(1)).unflatten(0, (k, -1)).sum(0)
    bias = (shifts - own_mean * t).unflatten(0, (k, -1)).sum(0)
    if len(parameters) > 3 * k:
        scale, shift = parameters[3 * k:]
        t = scale * (covariance.diagonal() + eps).rsqrt()
        weight, bias = weight + torch.diag(t), bias + shift - mean * t
    return weight, bias, own_mean, own_variance


class _FoldedPointwise(torch.autograd.Function):
    """x and parameters -> the sum of pointwise branches by one convolution, and the statistics of input and branches.

    The fold is differentiated by autograd, on matrices that are small beside the maps. The maps themselves are passed over
    as seldom as can be.
    """

    @staticmethod
    def forward(ctx, x, k, eps, *parameters):
        batch, count = x.shape[0], _count(x)
        mean = x.sum((0, 2, 3)) / count
        centred = (x - _per_channel(mean)).flatten(2)
        covariance = torch.bmm(centred, centred.transpose(1, 2)).sum(0) / count
        weight, bias, *statistics = _fold_pointwise(k, eps, mean, covariance, *parameters)
        ctx.branches = k, eps
        ctx.save_for_backward(x, mean, covariance, *parameters)
        out = x.new_empty(batch, len(bias), *x.shape[2:])
        torch.baddbmm(bias.reshape(1, -1, 1), weight.expand(batch, -1, -1), x.flatten(2), out=out.flatten(2))
        statistics = mean.clone(), covariance.diagonal().clone(), *statistics
        ctx.mark_non_differentiable(*statistics)
        return out, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        x, *inputs = ctx.saved_tensors
        batch, count = x.shape[0], _count(x)
        x, shape, grad = x.flatten(2), x.shape, grad.flatten(2)
        grad_weight = torch.bmm(grad, x.transpose(1, 2)).sum(0)
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in inputs]
            kernel = _fold_pointwise(*ctx.branches, *inputs)[:2]
        grad_mean, grad_covariance, *grads = torch.autograd.grad(kernel, inputs, (grad_weight, grad.sum((0, 2))))
        weight, mean = kernel[0].detach(), inputs[0].detach()
        # The covariance is the mean of (x - mean) (x - mean)^T; its derivative by the mean is 0.
        slope = (grad_covariance + grad_covariance.t()) / count
        grad_x = torch.baddbmm((grad_mean / count - slope @ mean).reshape(1, -1, 1), slope.expand(batch, -1, -1), x)
        grad_x.baddbmm_(weight.t().expand(batch, -1, -1), grad)
        return (grad_x.view(shape), None, None, *grads)


def _shared_pointwise(block: nn.Module, x: Tensor) -> Tensor:
    """All branches of a pointwise block as one convolution."""
    norms, skip = [branch.bn for branch in block.conv_branches], block.skip_branch
    parameters = [branch.conv.weight for branch in block.conv_branches] + [norm.weight for norm in norms] + \
        [norm.bias for norm in norms] + ([] if skip is None else [skip.weight, skip.bias])
    out, mean, variance, own_mean, own_variance = _FoldedPointwise.apply(x, len(norms), norms[0].eps, *parameters)
    for norm, *statistics in zip(norms, own_mean.chunk(len(norms)), own_variance.chunk(len(norms)), strict=True):
        _update_running_statistics(norm, *statistics, _count(x))
    if skip is not None:
        _update_running_statistics(skip, mean, variance, _count(x))
    return out
