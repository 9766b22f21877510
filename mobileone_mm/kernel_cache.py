"""Fused kernels that know whether they still are the ones of their branches.

Weights change behind a module's back: ``EMAHook`` swaps and ``MeanTeacherHook`` writes through
``param.data``, which leaves no trace, not even in the version counter. So freshness is decided by
content: a digest of the tensors that were folded, compared at every use.
"""
import threading
from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from itertools import chain
from operator import attrgetter, eq, is_

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_MAX_EXACT = 20480  # elements; larger tensors enter the digest as sums
_PARTS, _PLACES = 32, 32
_END = object()  # shifts the comparison of members where one came or went
_sum_places = partial(torch.sum, dim=1)
_thread = threading.local()


class FusedKernels:
    """The fused kernels of some blocks, and what it takes to trust them.

    Trusting them costs one pass over the weights' memory. Small tensors are compared as they are. Of
    large ones (a comparison would read a copy as well, and take twice as long) 1024 sums are compared:
    the tensor is cut into 32 parts, and in each part every 32nd element goes into the same sum, so that
    neighbours may not change places unseen, nor add and take away the same. Unseen stays a write that
    moves all these sums by less than their rounding (some last bits of an element), or that only moves
    elements by multiples of 32 places inside of a part (some rows, but not their norms).

    Immutable once made, and replaced as a whole, so that threads may share a model. The checks run
    in C loops (``map``, ``cat``), because a model has a thousand tensors, and each step of Python costs.

    Args:
        module: The module to watch, with all that is below it.
        kernels: Kernel, (C_out, C_in / groups, k, k), and bias, (C_out,), by the ``id`` of each block in it
            (the blocks themselves would make a cycle of references, and keep a deleted model's memory).
    """

    def __init__(self, module: nn.Module, kernels: dict[int, tuple[Tensor, Tensor]]):
        self.kernels = kernels
        modules = list(module.modules())
        self._norms = [norm for norm in modules if isinstance(norm, _BatchNorm)]
        self._norm_states = [(False, norm.eps) for norm in self._norms]
        self._members = [members for m in modules for members in (m._modules, m._parameters, m._buffers) if members]
        self._values = [*chain.from_iterable(map(dict.values, self._members)), _END]

        small, self._large = defaultdict(list), []
        for tensor in self._values:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                continue  # a norm's step counter has no part in the fold
            if tensor.numel() > _MAX_EXACT and tensor.numel() % (_PARTS * _PLACES) == 0 \
                    and tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.float64):
                self._large.append(tensor)
            else:
                # What can be concatenated as it is needs no view, and no proof that the view is still the tensor's.
                tensor = tensor if tensor.dim() else tensor.detach().reshape(1)
                small[tensor.shape[1:], tensor.dtype, tensor.device].append(tensor)
        self._small = list(small.values())
        # The views keep their memory alive, so an equal address means the same memory.
        self._parts = [tensor.detach().view(_PARTS, -1, _PLACES) for tensor in self._large]
        self._addresses = list(map(Tensor.data_ptr, self._large))
        self._strides = list(map(Tensor.stride, self._large))
        self._digest = self._compute_digest()

    @torch.no_grad()
    def _compute_digest(self) -> list[Tensor]:
        # Compared as floats, in which NaN differs from itself: in a sum it would hide its neighbours' changes.
        digest = [torch.cat(tensors) for tensors in self._small]
        if self._parts:
            digest.append(torch.cat(list(map(_sum_places, self._parts))))
        return digest

    def is_unchanged(self) -> bool:
        """Whether the tensors that were folded still hold the same values."""
        if not all(map(eq, map(Tensor.data_ptr, self._large), self._addresses)) or \
                not all(map(eq, map(Tensor.stride, self._large), self._strides)):
            return False
        return all((new.dtype, new.device) == (old.dtype, old.device) and not new.is_meta and torch.equal(new, old)
                   for new, old in zip(self._compute_digest(), self._digest, strict=True))

    def is_fresh(self) -> bool:
        """Whether the blocks would fold these kernels now: same modules and tensors, all norms frozen, unchanged."""
        return all(map(eq, map(attrgetter('training', 'eps'), self._norms), self._norm_states)) \
            and all(map(is_, chain(chain.from_iterable(map(dict.values, self._members)), (_END, )), self._values)) \
            and self.is_unchanged()

    @contextmanager
    def verified(self):
        """Within this context, in this thread, :func:`verified_kernel` hands out these kernels unasked."""
        outer = getattr(_thread, 'kernels', None)
        _thread.kernels = self.kernels
        try:
            yield
        finally:
            _thread.kernels = outer


def verified_kernel(block: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Kernel and bias of ``block`` if they were verified just now together with its backbone's, else None."""
    kernels = getattr(_thread, 'kernels', None)
    return None if kernels is None else kernels.get(id(block))


class HoldsFusedKernels(nn.Module):
    """Mixin for modules that keep fused kernels: never in a copy, a pickle or a replica, nor across ``.to()``."""

    _fused: FusedKernels | None = None

    def _apply(self, fn, recurse: bool = True):
        self._fused = None  # .half(), .cuda(): also frees the old kernels at once
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict:
        return self.__dict__ | {'_fused': None}

    def _replicate_for_data_parallel(self):
        replica = super()._replicate_for_data_parallel()
        replica._fused = None
        return replica
