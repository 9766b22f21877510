"""The MobileOne block in its three forms: train, eval, deploy."""
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.utils import skip_init

from .calls import leaf_for_fx, recomputed
from .init_cfg import check_init_cfg
from .kernel_cache import KeepsKernel
from .layers import SqueezeExcite, apply_weight_hooks, build_activation, build_norm
from .live_norms import sum_live_branches
from .reparam import fold_bn, identity_kernel, pad_kernel, sum_kernels, to_float
from .utils.checks import check_bool, check_int
from .utils.errors import ArgumentError, CheckpointError
from .utils.norms import BatchNorm

NO_WAY_BACK = (
    'Got fused (deploy) weights, but this MobileOne is in the train form, whose branches cannot be restored from them. '
    "To train, load the unfused checkpoint that they were made from (Apple's end in _unfused.pth.tar), or put the "
    "kernels into fresh branches (in the config of the backbone, init_cfg=dict(_delete_=True, type='Pretrained', "
    'checkpoint=THIS_FILE, expand=True)); else build it with deploy=True (--cfg-options model.backbone.deploy=True).')
_BRANCHES = ('conv_branches', 'scale_branch', 'skip_branch')


class MobileOneBlock(KeepsKernel, BaseModule):
    """Parallel branches in training, one convolution in inference (MobileOne, Figure 3)::

        train form   x ─┬─ conv_branches: k times (k x k conv, BN) ─┐
                        ├─ scale_branch: 1x1 conv, BN (kernel > 1)  ─┼─ + ─ SE ─ activation
                        └─ skip_branch: BN (shapes agree)           ─┘
        eval form    x ─── one k x k convolution, folded ───────────── SE ─ activation
        deploy form  x ─── reparam_conv ────────────────────────────── SE ─ activation

    Train and eval form are one module with one set of parameters and one ``state_dict``. At each
    call, :meth:`.kernel_cache.KeepsKernel.current_kernel` decides which of them is used, and where
    the folded kernel comes from; it is never stale. ``switch_to_deploy()`` is one-way.

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
        fast_train: Train by one folded convolution where no norm is in training mode
            (``norm_eval``), and on the CPU by :mod:`.live_norms` where all are. False: always by
            calling all branches and adding up.
        deploy: Build the deploy form.
        init_cfg: mmengine's initialization config.

    Raises:
        ArgumentError: A number out of its range, an even kernel size, a norm that cannot be folded,
            or a skip branch on shapes that differ.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1,
                 groups: int = 1, num_conv_branches: int = 1, with_skip: bool | None = None, with_se: bool = False,
                 norm_cfg: dict = dict(type='BN'), act_cfg: dict | None = dict(type='ReLU'), with_cp: bool = False,
                 deploy: bool = False, fast_train: bool = True, init_cfg: dict | list | None = None):
        super().__init__(init_cfg)
        for name, value in dict(in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size,
                                stride=stride, dilation=dilation, groups=groups,
                                num_conv_branches=num_conv_branches).items():
            setattr(self, name, check_int(name, value, 1))
        if kernel_size % 2 == 0:
            raise ArgumentError(f'kernel_size must be odd, got {kernel_size}: a 1x1 branch has no place in an even '
                                'kernel.')
        if in_channels % groups or out_channels % groups:
            raise ArgumentError(f'groups must divide in_channels and out_channels, got groups={groups}, '
                                f'in_channels={in_channels}, out_channels={out_channels}.')
        shapes_agree = in_channels == out_channels and stride == 1
        if with_skip and not shapes_agree:
            raise ArgumentError('with_skip=True needs in_channels == out_channels and stride 1, got '
                                f'in_channels={in_channels}, out_channels={out_channels}, stride={stride}.')
        self.padding = dilation * (kernel_size // 2)
        self.with_skip = shapes_agree if with_skip is None else check_bool('with_skip', with_skip)
        self.norm_cfg = norm_cfg
        self.with_cp = check_bool('with_cp', with_cp)
        self.fast_train = check_bool('fast_train', fast_train)
        if check_bool('deploy', deploy):
            build_norm(norm_cfg, out_channels)  # refuses the same norms as the train form
            self.reparam_conv = self._conv(kernel_size, bias=True)
        else:
            self._build_branches()
        self.se = SqueezeExcite(out_channels) if check_bool('with_se', with_se) else None
        self.activate = build_activation(act_cfg)
        check_init_cfg(init_cfg, norm_cfg)

    def _conv(self, kernel_size: int, build: Callable[..., nn.Conv2d] = nn.Conv2d, **kwargs) -> nn.Conv2d:
        geometry = dict(stride=self.stride, padding=self.padding, dilation=self.dilation, bias=False)
        return build(self.in_channels, self.out_channels, kernel_size, groups=self.groups, **geometry | kwargs)

    def _build_branches(self) -> None:
        def conv_bn(conv: nn.Conv2d) -> nn.Sequential:
            return nn.Sequential(OrderedDict(conv=conv, bn=build_norm(self.norm_cfg, self.out_channels)))

        self.conv_branches = nn.ModuleList(
            conv_bn(self._conv(self.kernel_size)) for _ in range(self.num_conv_branches))
        # The 1x1 convolution has stride 1 and gets a subsampled input, which is the same function.
        # With a stride, its backward pass in channels_last crashes torch 2.13 on the CPU for the 3
        # channels of the stem.
        self.scale_branch = conv_bn(self._conv(1, stride=1, padding=0, dilation=1)) if self.kernel_size > 1 else None
        self.skip_branch = build_norm(self.norm_cfg, self.out_channels) if self.with_skip else None

    @property
    def deploy(self) -> bool:
        """Whether this is the deploy form."""
        return 'reparam_conv' in self._modules

    @leaf_for_fx
    @recomputed
    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        if self.deploy:
            out = self.reparam_conv(x)
        elif (kernel := self.current_kernel()) is not None:
            out = F.conv2d(x, *kernel, self.stride, self.padding, self.dilation, self.groups)
        else:
            out = self.sum_branches(x)
        return self.activate(out if self.se is None else self.se(out))

    def _branch_outputs(self, x: Tensor) -> Iterator[Tensor]:
        for branch in self.conv_branches:
            yield branch(x)
        if self.scale_branch is not None:
            yield self.scale_branch(x[..., ::self.stride, ::self.stride] if self.stride > 1 else x)
        if self.skip_branch is not None:
            yield self.skip_branch(x)

    def sum_branches(self, x: Tensor) -> Tensor:
        """The train form up to Squeeze-and-Excitation: the sum of the branches' outputs."""
        if self.fast_train and (out := sum_live_branches(self, x)) is not None:
            return out
        outputs = self._branch_outputs(x)
        out, is_own = next(outputs), False
        for output in outputs:
            # Adding in place saves memory traffic. Not into a branch's own output, and not across
            # dtypes: under autocast the skip branch's output may have another one.
            if is_own and out.dtype == output.dtype:
                out += output
            else:
                out, is_own = out + output, True
        return out

    def norms(self) -> list[BatchNorm]:
        """The batch norms of all branches, except those that ``fuse_conv_bn`` has folded."""
        if self.deploy:
            return []
        norms = [branch.bn for branch in (*self.conv_branches, self.scale_branch) if branch is not None]
        return [norm for norm in (*norms, self.skip_branch) if isinstance(norm, BatchNorm)]

    def fold(self) -> tuple[Tensor, Tensor]:
        """Fold all branches, differentiably: kernel, (C_out, C_in / groups, k, k); bias, (C_out,)."""
        convs = [branch for branch in (*self.conv_branches, self.scale_branch) if branch is not None]
        for branch in convs:
            apply_weight_hooks(branch.conv)
        kernels = [self._fold_branch(branch.conv.weight, branch.conv.bias, branch.bn) for branch in convs]
        weight = self.conv_branches[0].conv.weight
        if self.skip_branch is not None:
            identity = identity_kernel(self.in_channels, self.groups, self.kernel_size, weight)
            kernels.append(self._fold_branch(identity, None, self.skip_branch))
        kernel, bias = sum_kernels(kernels)
        return kernel.to(weight.dtype), bias.to(weight.dtype)

    def _fold_branch(self, kernel: Tensor, bias: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
        # Folding in half precision would lose accuracy that the convolution itself keeps.
        kernel, bias = to_float(pad_kernel(kernel, self.kernel_size)), to_float(bias)
        if not isinstance(norm, BatchNorm):  # fuse_conv_bn already folded it into the convolution
            return kernel, kernel.new_zeros(self.out_channels) if bias is None else bias
        return fold_bn(kernel, bias, to_float(norm.running_mean), to_float(norm.running_var), to_float(norm.weight),
                       to_float(norm.bias), norm.eps)

    @torch.no_grad()
    def switch_to_deploy(self, kernel: tuple[Tensor, Tensor] | None = None) -> None:
        """Fold for good: ``reparam_conv`` replaces the branches. A second call does nothing.

        Args:
            kernel: The result of :meth:`.fold`, if it is known already.
        """
        if self.deploy:
            return
        weight, bias = kernel or self.fold()
        requires_grad = any(parameter.requires_grad for name in _BRANCHES if getattr(self, name) is not None
                            for parameter in getattr(self, name).parameters())
        # skip_init, because an initialization would draw random numbers.
        conv = self._conv(self.kernel_size, partial(skip_init, nn.Conv2d), bias=True, device=weight.device,
                          dtype=weight.dtype)
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
        for name in _BRANCHES:
            delattr(self, name)
        self._fused = None
        self.reparam_conv = conv.requires_grad_(requires_grad).train(self.training)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        has_kernel = f'{prefix}reparam_conv.weight' in state_dict
        if has_kernel and not self.deploy:
            raise CheckpointError(NO_WAY_BACK)
        if self.deploy and not has_kernel and f'{prefix}conv_branches.0.conv.weight' in state_dict:
            self._fuse_state_dict(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def _fuse_state_dict(self, state_dict: dict, prefix: str) -> None:
        """Replace the branches of a train-layout ``state_dict`` by ``reparam_conv``, in place."""
        branches = {key[len(prefix):]: state_dict.pop(key) for key in list(state_dict)
                    if key.startswith(tuple(f'{prefix}{name}.' for name in _BRANCHES))}
        with torch.device('meta'):  # no memory, no random numbers: it takes over the given tensors
            twin = MobileOneBlock(self.in_channels, self.out_channels, self.kernel_size, self.stride, self.dilation,
                                  self.groups, self.num_conv_branches, self.with_skip, norm_cfg=self.norm_cfg)
        twin.load_state_dict(branches, assign=True)
        state_dict[f'{prefix}reparam_conv.weight'], state_dict[f'{prefix}reparam_conv.bias'] = twin.fold()

    def extra_repr(self) -> str:
        """The block's geometry and form."""
        return (f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, '
                f'dilation={self.dilation}, groups={self.groups}, deploy={self.deploy}')
