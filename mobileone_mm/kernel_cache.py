"""Folded kernels that know whether they are fresh, and the order in which a block looks for one.

A module is not told when its weights change: ``EMAHook`` swaps and ``MeanTeacherHook`` writes
through ``param.data``, which leaves no trace, not even in the version counter. So freshness is
decided by content: a digest of the tensors that were folded is compared at every use.
"""
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from operator import is_

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from .eager import has_transformed_weights, is_in_graph, is_transformed
from .utils.norms import BatchNorm

NOT_FINITE = ('MobileOne does not fold to finite numbers: there is NaN or infinity in its weights or in the '
              'statistics of its norms, as after a training that diverged.')
_MAX_EXACT = 20480  # elements; larger tensors enter the digest as sums
_PARTS, _PLACES = 32, 32
_CHUNK = 32768  # elements
_END = object()  # shifts the comparison of members where one came or went
_sum_places = partial(torch.sum, dim=1)
_thread = threading.local()


class FusedKernels:
    """The folded kernels of some blocks, and the check that they are fresh.

    The check costs one pass over the weights' memory. Small tensors are compared as they are, on the
    CPU by NumPy, whose call costs a third of torch's for each of a thousand tensors. For large ones
    that would take twice as long, because it reads a copy as well; of these, 1024 sums
    are compared. The tensor is cut into 32 parts, and in each part every 32nd element goes into the
    same sum, so it is noticed when neighbours change places, or when one grows by what the other
    loses. Two kinds of write are not noticed: one that changes all these sums by less than their
    rounding (some last bits of an element), and one that only moves elements by multiples of 32
    places within a part (some rows, but not their norms).

    An object never changes and is replaced as a whole, so that threads may share a model.

    Args:
        module: The module to watch, with all its submodules.
        kernels: Kernel, (C_out, C_in / groups, k, k), and bias, (C_out,), by the ``id`` of each
            block in it. (Keys that are blocks would make a cycle of references, and keep the memory
            of a deleted model.)
    """

    def __init__(self, module: nn.Module, kernels: dict[int, tuple[Tensor, Tensor]]):
        self.kernels = kernels
        modules = list(module.modules())
        self._norms = [norm for norm in modules if isinstance(norm, BatchNorm)]
        self._norm_states = [(False, norm.eps) for norm in self._norms]
        self._members = [members for m in modules for members in (m._modules, m._parameters, m._buffers) if members]
        self._values = list(self._current_values())

        # An alias keeps the memory alive, but for a storage that changes it in place, such as share_memory_().
        self._watched, self._aliases, self._parts, arrays, others = [], [], [], [], defaultdict(list)
        for tensor in self._values:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                continue  # a norm's step counter has no part in the fold
            alias = tensor.detach()
            is_dense = alias.is_contiguous() and not alias.is_meta and alias.dtype in (torch.float32, torch.float64)
            if is_dense and alias.numel() > _MAX_EXACT and alias.numel() % (_PARTS * _PLACES) == 0:
                self._parts.append(alias.view(_PARTS, -1, _PLACES))
            elif is_dense and alias.device.type == 'cpu' and type(alias) is Tensor and not is_transformed(alias):
                # Not alias.numpy(), after which the storage cannot be resized.
                arrays.append(np.from_dlpack(alias).reshape(-1))
            else:
                # These are concatenated as they are, so they need no view, and no check of a view.
                tensor = tensor if tensor.dim() else alias.reshape(1)
                others[tensor.shape[1:], tensor.dtype, tensor.device].append(tensor)
                continue
            self._watched.append(tensor)
            self._aliases.append(alias)
        self._addresses = list(map(Tensor.data_ptr, self._watched))
        self._others = list(others.values())
        self._digest = self._compute_digest()
        self._exact = [(chunk, np.concatenate(chunk)) for chunk in _chunks(arrays)]

    def _current_values(self):
        """All modules, parameters and buffers in their places, then the end; in C, as there are thousands of them."""
        return chain(chain.from_iterable(map(dict.values, self._members)), (_END, ))

    @torch.no_grad()
    def _compute_digest(self) -> list[Tensor]:
        digest = [torch.cat(tensors) for tensors in self._others]
        if self._parts:
            digest.append(torch.cat(list(map(_sum_places, self._parts))))  # a tenth faster than a comprehension
        return digest

    def is_unchanged(self) -> bool:
        """Whether the tensors that were folded still hold the same values."""
        # All comparisons are of floats, so that NaN differs from itself: in a sum it would hide other changes.
        return all(map(Tensor.is_set_to, self._watched, self._aliases)) \
            and list(map(Tensor.data_ptr, self._watched)) == self._addresses \
            and all(np.array_equal(np.concatenate(arrays), old) for arrays, old in self._exact) \
            and all((new.dtype, new.device) == (old.dtype, old.device) and not new.is_meta and torch.equal(new, old)
                    for new, old in zip(self._compute_digest(), self._digest, strict=True))

    def is_fresh(self) -> bool:
        """Whether folding would give these kernels: same modules, tensors, values, norms frozen."""
        norms_are_frozen = [(norm.training, norm.eps) for norm in self._norms] == self._norm_states
        return norms_are_frozen and all(map(is_, self._current_values(), self._values)) and self.is_unchanged()

    @contextmanager
    def verified(self):
        """Context in which, in this thread, the blocks take these kernels without another check."""
        outer = getattr(_thread, 'kernels', None)
        _thread.kernels = self.kernels
        try:
            yield
        finally:
            _thread.kernels = outer


def _chunks(arrays: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Cut a list so that each part is of one type and, joined, fits into a core's cache."""
    chunk, size = [], 0
    for array in arrays:
        if chunk and (size + array.size > _CHUNK or array.dtype != chunk[0].dtype):
            yield chunk
            chunk, size = [], 0
        chunk.append(array)
        size += array.size
    if chunk:
        yield chunk


class HoldsFusedKernels(nn.Module):
    """Mixin: a module that keeps folded kernels, but not in copies, nor across ``.to()``."""

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


class KeepsKernel(HoldsFusedKernels):
    """Mixin for a block that has ``fold()``, ``norms()``, ``deploy`` and ``fast_train``."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_load_state_dict_post_hook(_refresh_after_loading)

    def current_kernel(self) -> tuple[Tensor, Tensor] | None:
        """Kernel and bias for a forward pass now, never stale; None: the branches are to be summed.

        The first row that holds decides:

        ==============================================  ============================================
        the backbone has just verified all its kernels  its kernel of this block
        a norm is in training mode                      None: batch statistics are not constant
        in training, with ``fast_train=False``          None
        in a graph of ``torch.compile``                 folded in the graph, which follows later
                                                        changes of the weights
        in ``torch.export``                             the kept kernel, a constant; folded in the
                                                        graph after a write through ``.data`` that
                                                        no forward has seen
        in ``torch.jit.trace``                          the kept kernel, a constant
        weights in a transform of ``torch.func``        folded now: their values cannot be compared
        a gradient may have to reach a branch           folded now, differentiably
        else                                            the kept kernel, folded again if a branch
                                                        has changed
        ==============================================  ============================================
        """
        kernel = (getattr(_thread, 'kernels', None) or {}).get(id(self))
        if kernel is not None:
            return kernel
        if not self.is_folding or (self.training and not self.fast_train):
            return None
        if torch.compiler.is_dynamo_compiling():
            return self.fold()
        if torch.compiler.is_compiling():
            return self._exported_kernel()
        if torch.jit.is_tracing():
            with _untraced():
                return self.kept_kernel()
        if has_transformed_weights(self):
            return self.fold()
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            return self.fold()
        return self.kept_kernel()

    @property
    def is_folding(self) -> bool:
        """Whether one convolution can replace the branches, as no norm is in training mode."""
        return not any(norm.training for norm in self.norms())

    def kept_kernel(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias without a gradient to the branches, folded again only if they changed."""
        fused = self._fused
        if fused is None or not fused.is_fresh():
            # Outside inference mode, so that a later forward with gradients to its input may use
            # the kernel too.
            with torch.inference_mode(False), torch.no_grad():
                kernel = self.fold()
                if not is_finite(kernel):
                    warnings.warn(f'{NOT_FINITE} Its answers are NaN or wrong.', stacklevel=2)
                fused = FusedKernels(self, {id(self): kernel})
            self._fused = fused
        return fused.kernels[id(self)]

    def _exported_kernel(self) -> tuple[Tensor, Tensor]:
        # torch.export runs this with stand-ins for the parameters, but the kept kernel has the real
        # ones. There is no public way to leave its modes.
        if self._fused is not None:
            with _disable_current_modes():
                if self._fused.is_unchanged():
                    return self._fused.kernels[id(self)]
        return self.fold()

    def refresh(self) -> None:
        """In eval mode, fold before the first forward: torch.export needs a kept kernel."""
        if not self.training and not self.deploy and self.is_folding \
                and not any(tensor.is_meta for tensor in self.parameters()):
            self.kept_kernel()

    def train(self, mode: bool = True):
        """Go to the train form, or with ``mode=False`` to the eval form; returns self."""
        super().train(mode)
        self.refresh()
        return self

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self.refresh()
        return self


class KeepsAllKernels(HoldsFusedKernels):
    """Mixin for a backbone: verifies the kernels of all its blocks at once, which costs less."""

    def verify_kernels(self) -> FusedKernels | None:
        """The kernels of all blocks, after a check.

        None: each block decides by :meth:`.KeepsKernel.current_kernel`.
        """
        if self.training or torch.is_grad_enabled() or is_in_graph() or has_transformed_weights(self):
            return None
        fused = self._fused
        if fused is None or not fused.is_fresh():
            kernels = {}
            for block in self.modules():
                if isinstance(block, KeepsKernel):
                    if block.deploy or not block.is_folding:
                        return None
                    kernels[id(block)] = block.kept_kernel()
            fused = self._fused = FusedKernels(self, kernels)
        return fused


def is_finite(kernel: tuple[Tensor, Tensor]) -> bool:
    """Whether there is neither NaN nor infinity in kernel and bias."""
    return all(tensor.is_meta or bool(tensor.isfinite().all()) for tensor in kernel)


def _refresh_after_loading(block: KeepsKernel, incompatible_keys) -> None:
    block.refresh()


@contextmanager
def _untraced():
    """Pause ``torch.jit.trace``: what is computed here becomes a constant of the graph.

    torch has no public way to do that.
    """
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)
