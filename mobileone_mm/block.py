"""The MobileOne block in its three forms: train, eval, deploy."""
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import _disable_current_modes

from .kernel_cache import FusedKernels, HoldsFusedKernels, verified_kernel
from .reparam import fold_bn, identity_kernel, pad_kernel, sum_kernels

_WEIGHT_HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)
_BRANCHES = ('conv_branches', 'scale_branch', 'skip_branch')
_NORMS = ('BN', 'BN2d', 'SyncBN')
_NOT_FINITE = ('MobileOne does not fold to finite numbers: there is NaN or infinity in its weights or in its norms\' '
               'statistics, as after a training that diverged.')


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """Build a batch norm from mm's ``norm_cfg``, refusing what cannot be folded.

    Raises:
        ValueError: The norm is not a batch norm with running statistics.
    """
    norm = None
    if isinstance(norm_cfg, dict) and norm_cfg.get('type') in (*_NORMS, nn.BatchNorm2d, nn.SyncBatchNorm):
        norm = build_norm_layer(norm_cfg, channels)[1]
    if norm is None or norm.running_mean is None:
        raise ValueError(f'MobileOne cannot fold the norm {norm_cfg}. Allowed are the types {", ".join(_NORMS)}, '
                         'with running statistics. Set e.g. norm_cfg=dict(type=\'BN\').')
    return norm


class SqueezeExcite(BaseModule):
    """Squeeze-and-Excitation as MobileOne uses it: after the branch sum, before the activation.

    Args:
        channels: Number of channels.
        reduction: Channels of the bottleneck over ``channels`` (1/16 in Apple's code).
    """

    def __init__(self, channels: int, reduction: float = 0.0625):
        super().__init__()
        reduced = max(1, int(channels * reduction))
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``x``, (N, C, H, W), by their gates in 0..1."""
        gate = x.mean((2, 3), keepdim=True)
        return x * self.expand(F.relu(self.reduce(gate))).sigmoid()


class MobileOneBlock(HoldsFusedKernels, BaseModule):
    """A convolution that trains as parallel branches and answers as one (MobileOne, Figure 3)::

        train form   x ─┬─ conv_branches: k times (k x k conv, BN) ─┐
                        ├─ scale_branch: 1x1 conv, BN (kernel > 1)  ─┼─ + ─ SE ─ activation
                        └─ skip_branch: BN (shapes agree)           ─┘
        eval form    x ─── one k x k convolution, folded ───────────── SE ─ activation
        deploy form  x ─── reparam_conv ────────────────────────────── SE ─ activation

    Train and eval form are one module with one set of parameters and one ``state_dict``. It folds
    whenever none of its batch norms is in training mode: after ``eval()``, and also in a frozen
    stage or under ``norm_eval``, where the statistics are constants too. The fused kernel is kept
    only where no gradient has to reach the branches, and is refolded as soon as a branch tensor
    changed by any route (see :mod:`mobileone_mm.kernel_cache`). ``switch_to_deploy()`` is one-way.

    Shapes: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd kernel size; padding keeps the size, ``dilation * (kernel_size // 2)``.
        stride: Stride.
        dilation: Dilation of the k x k branches; scale and skip stay on the kernel's centre.
        groups: Groups of every convolution of the block.
        num_conv_branches: Number k of over-parameterized conv branches.
        with_skip: Whether there is a skip branch. None: where in- and output shapes agree.
        with_se: Whether Squeeze-and-Excitation follows the sum.
        norm_cfg: Batch norm: ``BN``, ``BN2d`` or ``SyncBN``.
        act_cfg: Activation, or None for none.
        with_cp: Recompute the block in the backward pass to save memory.
        fast_train: Train by one folded convolution where no norm is in training mode (``norm_eval``). False: always by the
            sum of the branches.
        deploy: Build the deploy form.
        init_cfg: mmengine's initialization config.

    Raises:
        ValueError: Even kernel size, a norm that cannot be folded, or a skip branch on shapes
            that differ.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1,
                 groups: int = 1, num_conv_branches: int = 1, with_skip: bool | None = None, with_se: bool = False,
                 norm_cfg: dict = dict(type='BN'), act_cfg: dict | None = dict(type='ReLU'), with_cp: bool = False,
                 deploy: bool = False, fast_train: bool = True, init_cfg: dict | list | None = None):
        super().__init__(init_cfg)
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, got {kernel_size}: a 1x1 branch has no place in an even kernel.')
        shapes_agree = in_channels == out_channels and stride == 1
        with_skip = shapes_agree if with_skip is None else with_skip
        if with_skip and not shapes_agree:
            raise ValueError('with_skip=True needs in_channels == out_channels and stride 1, got '
                             f'in_channels={in_channels}, out_channels={out_channels}, stride={stride}.')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.dilation = dilation
        self.groups = groups
        self.padding = dilation * (kernel_size // 2)
        self.num_conv_branches = num_conv_branches
        self.with_skip = with_skip
        self.norm_cfg = norm_cfg
        self.with_cp = with_cp
        self.fast_train = fast_train
        self.deploy = deploy

        if deploy:
            build_norm(norm_cfg, out_channels)  # refuses the same norms as the train form
            self.reparam_conv = self._conv(kernel_size, bias=True)
        else:
            self._build_branches()
            self.register_load_state_dict_post_hook(_refresh_after_loading)
        self.se = SqueezeExcite(out_channels) if with_se else nn.Identity()
        if act_cfg is None:
            self.activate = nn.Identity()
        else:
            act_cfg = dict(act_cfg)
            if act_cfg['type'] in ('ReLU', 'ReLU6'):
                act_cfg.setdefault('inplace', True)
            self.activate = build_activation_layer(act_cfg)

    def _conv(self, kernel_size: int, bias: bool = False, **kwargs) -> nn.Conv2d:
        geometry = dict(stride=self.stride, padding=self.padding, dilation=self.dilation) | kwargs
        return nn.Conv2d(self.in_channels, self.out_channels, kernel_size, groups=self.groups, bias=bias, **geometry)

    def _build_branches(self) -> None:
        def conv_bn(conv: nn.Conv2d) -> nn.Sequential:
            return nn.Sequential(OrderedDict(conv=conv, bn=build_norm(self.norm_cfg, self.out_channels)))

        self.conv_branches = nn.ModuleList(
            conv_bn(self._conv(self.kernel_size)) for _ in range(self.num_conv_branches))
        # The 1x1 convolution has stride 1 and gets a subsampled input, which is the same function: strided, its
        # backward pass in channels_last crashes torch 2.13 on the CPU for the 3 channels of the stem.
        self.scale_branch = conv_bn(self._conv(1, stride=1, padding=0, dilation=1)) if self.kernel_size > 1 else None
        self.skip_branch = build_norm(self.norm_cfg, self.out_channels) if self.with_skip else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        if isinstance(x, Proxy):  # torch.fx traces symbolically (mmengine's efficient_conv_bn_eval): a block is one call
            return x.tracer.create_proxy('call_module', x.tracer.path_of_module(self), (x, ), {})
        if self.with_cp and self.training and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(
                self._forward, x, use_reentrant=False,
                context_fn=lambda: (torch.enable_grad(), self._without_statistics()))
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        if self.deploy:
            out = self.reparam_conv(x)
        elif (kernel := verified_kernel(self)) or (self.is_folding and (self.fast_train or not self.training)):
            weight, bias = kernel or self.fused_kernel()
            out = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        else:
            out = self._sum_branches(x)
        return self.activate(self.se(out))

    def _branch_outputs(self, x: Tensor) -> Iterator[Tensor]:
        for branch in self.conv_branches:
            yield branch(x)
        if self.scale_branch is not None:
            yield self.scale_branch(x[..., ::self.stride, ::self.stride] if self.stride > 1 else x)
        if self.skip_branch is not None:
            yield self.skip_branch(x)

    def _sum_branches(self, x: Tensor) -> Tensor:
        outputs = self._branch_outputs(x)
        out, is_own = next(outputs), False
        for output in outputs:
            # In place saves memory traffic. Not into what a branch returned, which is its own; nor of another type, as the
            # skip branch's may be under autocast.
            if is_own and out.dtype == output.dtype:
                out += output
            else:
                out, is_own = out + output, True
        return out

    def _norms(self) -> list[_BatchNorm]:
        norms = [branch.bn for branch in self.conv_branches]
        if self.scale_branch is not None:
            norms.append(self.scale_branch.bn)
        if self.skip_branch is not None:
            norms.append(self.skip_branch)
        # mmengine's fuse_conv_bn puts an Identity in a norm's place.
        return [norm for norm in norms if isinstance(norm, _BatchNorm)]

    @property
    def is_folding(self) -> bool:
        """Whether the next forward uses one convolution: no norm is in training mode."""
        return self.deploy or not any(norm.training for norm in self._norms())

    @contextmanager
    def _without_statistics(self):
        """Recomputing a forward must not update the running statistics a second time."""
        norms = [] if self.deploy else [norm for norm in self._norms() if norm.training]
        before = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            # Not "minus one": torch stops recomputing as soon as it has what it needs.
            for norm, momentum, num_batches_tracked in before:
                norm.momentum = momentum
                norm.num_batches_tracked.copy_(num_batches_tracked)

    # --- folding

    def _fold_branch(self, kernel: Tensor, bias: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
        # Folding in half precision would cost accuracy that the convolution itself does not cost.
        kernel, bias = _to_float(pad_kernel(kernel, self.kernel_size)), _to_float(bias)
        if not isinstance(norm, _BatchNorm):  # fuse_conv_bn already folded it into the convolution
            return kernel, kernel.new_zeros(self.out_channels) if bias is None else bias
        return fold_bn(kernel, bias, _to_float(norm.running_mean), _to_float(norm.running_var), _to_float(norm.weight),
                       _to_float(norm.bias), norm.eps)

    def fold(self) -> tuple[Tensor, Tensor]:
        """Fold all branches, differentiably: kernel, (C_out, C_in / groups, k, k), and bias, (C_out,)."""
        convs = list(self.conv_branches)
        if self.scale_branch is not None:
            convs.append(self.scale_branch)
        for branch in convs:
            for hook in branch.conv._forward_pre_hooks.values():
                if isinstance(hook, _WEIGHT_HOOKS):  # they set the weight; others see calls, and this is none
                    hook(branch.conv, ())
        kernels = [self._fold_branch(branch.conv.weight, branch.conv.bias, branch.bn) for branch in convs]
        weight = self.conv_branches[0].conv.weight
        if self.skip_branch is not None:
            identity = identity_kernel(self.in_channels, self.groups, self.kernel_size, weight)
            kernels.append(self._fold_branch(identity, None, self.skip_branch))
        kernel, bias = sum_kernels(kernels)
        return kernel.to(weight.dtype), bias.to(weight.dtype)

    def fused_kernel(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias of the eval form, never stale.

        Folded anew where a gradient may have to reach the branches and inside a graph of
        ``torch.compile`` (which then follows later changes of the weights); otherwise kept, and
        compared with the branches at each call. Tracing gets constants. So does ``torch.export``, except
        after a write through ``.data`` that no forward has seen yet: then the fold is in its graph.
        """
        if torch.compiler.is_dynamo_compiling():
            return self.fold()
        if torch.compiler.is_compiling():
            return self._kernel_for_export()
        if torch.jit.is_tracing():
            with _untraced():
                return self.kept_kernel()
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters()):
            return self.fold()
        return self.kept_kernel()

    def kept_kernel(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias without a gradient to the branches, refolded only if these changed."""
        fused = self._fused
        if fused is None or not fused.is_fresh():
            # Outside inference mode, so that a later forward with gradients to its input may use the kernel too.
            with torch.inference_mode(False), torch.no_grad():
                kernel = self.fold()
                if not _is_finite(kernel):
                    warnings.warn(f'{_NOT_FINITE} Its answers are NaN or wrong.', stacklevel=2)
                fused = FusedKernels(self, {id(self): kernel})
            self._fused = fused
        return fused.kernels[id(self)]

    def _kernel_for_export(self) -> tuple[Tensor, Tensor]:
        # torch.export runs this with stand-ins for the parameters, but the kept kernel knows the real ones.
        if self._fused is not None:
            with _disable_current_modes():
                if self._fused.is_unchanged():
                    return self._fused.kernels[id(self)]
        return self.fold()

    def refresh(self) -> None:
        """In eval mode, fold ahead of the first forward: torch.export cannot do it, and needs a kept kernel."""
        if self.training or self.deploy or any(tensor.is_meta for tensor in self.parameters()):
            return
        if self.is_folding:
            self.kept_kernel()

    def train(self, mode: bool = True) -> 'MobileOneBlock':
        """Go to the train form, or with ``mode=False`` to the eval form; returns self."""
        super().train(mode)
        self.refresh()
        return self

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self.refresh()
        return self

    def switch_to_deploy(self) -> None:
        """Fold for good: ``reparam_conv`` takes the branches' place. Does nothing when called again."""
        if self.deploy:
            return
        with torch.no_grad():
            weight, bias = self.fold()
            conv = self._conv(self.kernel_size, bias=True).to(weight)
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)
        for name in _BRANCHES:
            delattr(self, name)
        self._fused = None
        self.deploy = True
        self.reparam_conv = conv.train(self.training)

    # --- state dicts

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, strict: bool,
                              missing_keys: list, unexpected_keys: list, error_msgs: list) -> None:
        is_deployed = f'{prefix}reparam_conv.weight' in state_dict
        if is_deployed and not self.deploy:
            raise ValueError(
                f'Got deploy weights ({prefix}reparam_conv.*), but this MobileOne is in the train form, whose branches '
                'cannot be restored from them. Either build it with deploy=True (in a config: '
                "--cfg-options model.backbone.deploy=True), or load the training checkpoint that they were made from.")
        if self.deploy and not is_deployed and f'{prefix}conv_branches.0.conv.weight' in state_dict:
            self._fuse_state_dict(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)

    def _fuse_state_dict(self, state_dict: dict, prefix: str) -> None:
        """Replace the branches of a train-layout ``state_dict`` by ``reparam_conv``, in place."""
        branches = {key[len(prefix):]: state_dict.pop(key) for key in list(state_dict)
                    if key.startswith(tuple(f'{prefix}{name}.' for name in _BRANCHES))}
        twin = MobileOneBlock(self.in_channels, self.out_channels, self.kernel_size, self.stride, self.dilation,
                              self.groups, self.num_conv_branches, self.with_skip, norm_cfg=self.norm_cfg)
        twin.to(branches['conv_branches.0.conv.weight'])
        twin.load_state_dict(branches)
        with torch.no_grad():
            weight, bias = twin.fold()
        state_dict[f'{prefix}reparam_conv.weight'] = weight
        state_dict[f'{prefix}reparam_conv.bias'] = bias

    def extra_repr(self) -> str:
        """The block's geometry and form."""
        return (f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, '
                f'dilation={self.dilation}, groups={self.groups}, deploy={self.deploy}')


def _to_float(tensor: Tensor | None) -> Tensor | None:
    return tensor.float() if tensor is not None and tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _refresh_after_loading(block: MobileOneBlock, incompatible_keys) -> None:
    block.refresh()


def _is_finite(kernel: tuple[Tensor, Tensor]) -> bool:
    return all(tensor.is_meta or bool(tensor.isfinite().all()) for tensor in kernel)


@contextmanager
def _untraced():
    """Pause ``torch.jit.trace``, so that what is computed here becomes a constant of the graph."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)


def train_form_blocks(model: nn.Module) -> Iterator[tuple[str, MobileOneBlock]]:
    """The blocks of a model that have branches, with their names."""
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
        ValueError: A block would not fold to finite numbers. Then no block was changed.
    """
    model = model if inplace else deepcopy(model)
    with torch.no_grad():
        broken = [name for name, module in model.named_modules()
                  if isinstance(module, MobileOneBlock) and not module.deploy and not _is_finite(module.fold())]
    if broken:
        raise ValueError(f'{_NOT_FINITE} Take an earlier checkpoint. It is the case in {len(broken)} blocks, the first is '
                         f'{broken[0]!r}.')
    for module in list(model.modules()):
        if isinstance(module, MobileOneBlock):
            module.switch_to_deploy()
        elif hasattr(module, 'deploy') and any(isinstance(child, MobileOneBlock) for child in module.modules()):
            module.deploy = True
    return model
