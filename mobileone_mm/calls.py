"""Decorators of a block's ``forward``: for ``torch.fx``, and for recomputation."""
import functools
from collections.abc import Callable
from contextlib import contextmanager

import torch
import torch.utils.checkpoint
from torch.fx import Proxy

from .utils.errors import ArgumentError


def leaf_for_fx(forward: Callable) -> Callable:
    """Make a block one node for ``torch.fx``, unless it is in the deploy form.

    ``torch.fx`` traces symbolically. What a block does in its train and eval form depends on its
    state at each call, so it is one node, as mmengine's ``efficient_conv_bn_eval`` expects. The
    deploy form is traced through, so that FX quantization, for example, sees its convolution.
    """

    @functools.wraps(forward)
    def traced(self, x):
        if isinstance(x, Proxy) and not self.deploy:
            if x.tracer.root is self:
                raise ArgumentError('torch.fx cannot trace a MobileOneBlock alone in its train or eval form. Trace a '
                                    'model that holds it, or call switch_to_deploy() before.')
            return x.tracer.create_proxy('call_module', x.tracer.path_of_module(self), (x, ), {})
        return forward(self, x)

    return traced


def recomputed(forward: Callable) -> Callable:
    """With ``with_cp``, recompute the forward pass in the backward pass, to save memory."""

    @functools.wraps(forward)
    def checkpointed(self, x):
        if self.with_cp and self.training and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(
                forward, self, x, use_reentrant=False,
                context_fn=lambda: (torch.enable_grad(), _without_statistics(self)))
        return forward(self, x)

    return checkpointed


@contextmanager
def _without_statistics(block):
    """Recomputing a forward pass must not update the running statistics a second time."""
    norms = [norm for norm in block.norms() if norm.training]
    before = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        # Set, not decremented: torch stops recomputing as soon as it has what it needs.
        for norm, momentum, num_batches_tracked in before:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(num_batches_tracked)
