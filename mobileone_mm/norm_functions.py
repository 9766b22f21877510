"""Statistics of maps as functions of autograd, for the CPU in channels_last, with second derivatives."""
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the channels of (N, C, H, W), both (C,)."""
    return _ChannelStatistics.apply(x)


def product_statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of a map, and of its products with a matrix, from the covariance of its channels.

    The covariance is in float64: where channels are correlated, the variance of a product is a small
    difference of large numbers.

    Args:
        x: (N, C, H, W).
        weights: (K, C).

    Returns:
        Mean and variance of the channels of ``x``, both (C,); variances of ``weights @ pixel``, (K,).
    """
    return _ProductStatistics.apply(x, weights)


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale * x + shift`` by channels: (N, C, H, W), (C,), (C,) -> (N, C, H, W)."""
    return _Affine.apply(x, scale, shift)


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _pixels(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _through_graph(ctx, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor],
                   d_outputs: Sequence[Tensor]) -> Iterator[Tensor | None]:
    """Gradients that have gradients, for ``create_graph=True``: by autograd, through torch's own operators."""
    inputs = [each.view_as(each) for each in inputs]  # not to follow one of them into another, of which it was computed
    pairs = zip(function(*inputs), d_outputs, strict=True)
    outputs, d_outputs = zip(*((out, d_out) for out, d_out in pairs if out.requires_grad), strict=True)
    needs = ctx.needs_input_grad
    found = iter(torch.autograd.grad(outputs, [each for each, need in zip(inputs, needs, strict=True) if need],
                                     d_outputs, create_graph=True))
    return (next(found) if need else None for need in needs)


class _ChannelStatistics(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x):
        # torch.var_mean takes many times as long in channels_last (torch 2.13).
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx, d_mean, d_variance):
        x, mean = ctx.saved_tensors
        if torch.is_grad_enabled():
            dims = (0, 2, 3)
            return next(_through_graph(ctx, lambda x: (x.mean(dims), x.var(dims, correction=0)), [x],
                                       (d_mean, d_variance)))
        factor = d_variance * (2 / _pixels(x))
        return torch.addcmul(_per_channel(d_mean / _pixels(x) - factor * mean), x, _per_channel(factor))


class _ProductStatistics(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weights):
        *statistics, product = _ProductStatistics.compute(x, weights)
        ctx.save_for_backward(x, weights, statistics[0], product)
        return tuple(statistics)

    @staticmethod
    def compute(x, weights):
        """Mean, variance, the products' variances, and ``weights @ covariance``."""
        pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # a view, in channels_last
        mean = pixels.mean(0)
        centred = (pixels - mean).double()
        covariance = centred.T @ centred / len(centred)
        product = weights.double() @ covariance
        variances = (product * weights).sum(1)
        return mean, *(tensor.to(x.dtype) for tensor in (covariance.diagonal(), variances, product))

    @staticmethod
    def backward(ctx, d_mean, d_variance, d_variances):
        x, weights, mean, product = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tuple(_through_graph(ctx, lambda *inputs: _ProductStatistics.compute(*inputs)[:3], (x, weights),
                                        (d_mean, d_variance, d_variances)))
        d_x = None
        if ctx.needs_input_grad[0]:
            d_covariance = weights.T @ (d_variances[:, None] * weights) + d_variance.diag()
            d_covariance *= 2 / _pixels(x)
            d_x = F.conv2d(x, d_covariance[:, :, None, None], d_mean / _pixels(x) - d_covariance @ mean)
        return d_x, 2 * d_variances[:, None] * product


class _Affine(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, scale, shift):
        ctx.save_for_backward(x, scale, shift)
        return _Affine.compute(x, scale, shift)

    @staticmethod
    def compute(x, scale, shift):
        return torch.addcmul(_per_channel(shift), x, _per_channel(scale))

    @staticmethod
    def backward(ctx, d_out):
        x, scale, shift = ctx.saved_tensors
        if torch.is_grad_enabled():
            return tuple(_through_graph(ctx, lambda *inputs: [_Affine.compute(*inputs)], (x, scale, shift), [d_out]))
        # With a mean of 0 and a deviation of 1, the gradients of a norm's weight and bias are these sums.
        zeros, ones = torch.zeros_like(scale), torch.ones_like(scale)
        _, d_scale, d_shift = torch.ops.aten.native_batch_norm_backward(
            d_out, x, ones, None, None, zeros, ones, True, 0., [False, True, True])
        return d_out * _per_channel(scale) if ctx.needs_input_grad[0] else None, d_scale, d_shift
