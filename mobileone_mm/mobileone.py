"""The MobileOne backbone."""
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.fx import Proxy

from .arch import block_table, check_per_stage, resolve_arch, stage_widths
from .block import MobileOneBlock
from .checkpoint.expand import expand_state_dict
from .checkpoint.fit import adapt_state_dict, mark_checked, missing_backbone, was_checked
from .checkpoint.pretrained import load_pretrained
from .eager import is_in_graph, is_transformed
from .init_cfg import check_init_cfg, initializer
from .kernel_cache import KeepsAllKernels
from .reparameterize import reparameterize_model
from .utils.checks import check_bool, check_int
from .utils.errors import ArgumentError, CheckpointError
from .utils.norms import BatchNorm


def _in_channels_last(x: Tensor) -> Tensor:
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last)
    # A map of one channel is in both layouts, so that contiguous() leaves it plain.
    height, width = x.shape[2:]
    return x.as_strided(x.shape, (height * width, 1, width, 1))


@MODELS.register_module()
class MobileOne(KeepsAllKernels, BaseModule):
    """MobileOne, reparameterized on ``eval()`` and back on ``train()``.

    The paper is https://arxiv.org/abs/2206.04040. ``stage0`` is the stem at stride 2; ``stage1`` to
    ``stage4`` alternate depthwise 3x3 and pointwise 1x1 :class:`.MobileOneBlock`. ``state_dict()``
    is the train layout in train and in eval form alike.

    Shapes, with the default strides: (N, in_channels, H, W) -> for i in ``out_indices``
    (N, out_channels, ceil(H / s), ceil(W / s)), s = 4, 8, 16, 32 for i = 0, 1, 2, 3.

    ========  =====  =======  =======  =======  =======
    arch      stem   stage1   stage2   stage3   stage4
    ========  =====  =======  =======  =======  =======
    s0        48     48       128      256      1024
    s1        64     96       192      512      1280
    s2        64     96       256      640      2048
    s3        64     128      320      768      2048
    s4        64     192      448      896      2048
    ========  =====  =======  =======  =======  =======

    Args:
        arch: Name from ``ARCHS`` (``s4_nose`` is S4 without Squeeze-and-Excitation, the paper's S4
            for segmentation), or a dict with the keys of its rows.
        in_channels: Channels of the input.
        out_indices: Stages to return: 0 to 3 are stage1 to stage4, negative ones count from the
            end.
        strides: Stride of each stage, 1 or 2. A stage changed from 2 to 1 keeps its branches, so
            that pretrained weights still fit.
        dilations: Dilation of the depthwise convolutions of each stage, as in mmseg's ResNet.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and stages 1 to n: no gradients,
            norms in eval mode, hence folded.
        norm_eval: Keep all norms in eval mode while training, hence folded, with exact gradients.
        norm_cfg: Batch norm: ``BN``, ``BN2d`` or ``SyncBN``.
        act_cfg: Activation of every block, or None.
        with_cp: Recompute blocks in the backward pass to save memory.
        deploy: Build the deploy form; it loads train-layout checkpoints too, and fuses them.
        init_cfg: mmengine's initialization config. None: PyTorch's own initialization, as in
            Apple's code. (mmengine's Kaiming initialization computes a depthwise kernel's fan-out
            over all channels, which makes its weights tiny.) ``dict(type='Pretrained',
            checkpoint=PATH_OR_URL)`` takes Apple's, timm's, mmpretrain's and our own weights
            (:func:`mobileone_mm.checkpoint.pretrained.load_pretrained`), and with ``expand=True`` fused
            ones for the train form (:func:`mobileone_mm.expand_state_dict`).
        contract_dilation: Halve a stage's dilation in its first depthwise block, as mmseg's ResNet
            does. Where a stride of 2 was changed to dilation 2, pretrained weights then see the
            same grid as in their training.
        fast_train: With ``norm_eval``, train by one folded convolution per block, and with live
            norms on the CPU by the statistics of the blocks' inputs where that is faster
            (:mod:`mobileone_mm.live_norms`); both with exact gradients for all branches
            (``benchmarks/train_step.py`` measures what that saves). False: always by calling all
            branches and adding up.
        channels_last: Whether to compute in channels_last inside, also for a plain input. The outputs
            have the layout of the input, because some necks and heads call ``view()``; hooks on
            stages and blocks see maps in channels_last. None: on the CPU for a float32 input, where
            it takes half to nine tenths of the time; in a compiled or exported graph never, whatever
            is given. (DDP then tells once that strides of gradients do not match those of its
            buckets. They differ in dimensions of size 1, so nothing is lost.)

    Raises:
        ArgumentError: An argument outside of its range; the message names the range.
    """

    channels_last: bool | None = None  # of objects that were pickled before there was this

    def __init__(self, arch: str | dict = 's0', in_channels: int = 3, out_indices: Sequence[int] = (3, ),
                 strides: Sequence[int] = (2, 2, 2, 2), dilations: Sequence[int] = (1, 1, 1, 1),
                 frozen_stages: int = -1, norm_eval: bool = False, norm_cfg: dict = dict(type='BN'),
                 act_cfg: dict | None = dict(type='ReLU'), with_cp: bool = False, deploy: bool = False,
                 init_cfg: dict | list | None = None, contract_dilation: bool = False, fast_train: bool = True,
                 channels_last: bool | None = None):
        super().__init__(init_cfg)
        self.arch = arch
        spec = resolve_arch(arch)
        self.strides = check_per_stage('strides', strides, allowed=(1, 2))
        self.dilations = check_per_stage('dilations', dilations)
        for dilation in self.dilations:
            check_int('dilations', dilation, 1)
        if not isinstance(out_indices, Sequence) or isinstance(out_indices, str) or not out_indices:
            raise ArgumentError('out_indices must be a sequence of ints in 0..3 (stage1 to stage4) or -4..-1, got '
                                f'{out_indices!r}.')
        self.out_indices = tuple(check_int('out_indices (stage1 to stage4, or from the end)', i, -4, 3) % 4
                                 for i in out_indices)
        self.frozen_stages = check_int('frozen_stages (-1: none, 0: the stem, n: stem and stages 1 to n)',
                                       frozen_stages, -1, 4)
        self.in_channels = check_int('in_channels', in_channels, 1)
        self.norm_eval = check_bool('norm_eval', norm_eval)
        self.norm_cfg = norm_cfg
        if channels_last is not None:
            check_bool('channels_last, if not None,', channels_last)
        self.channels_last = channels_last

        common = dict(norm_cfg=norm_cfg, act_cfg=act_cfg, with_cp=with_cp, fast_train=fast_train, deploy=deploy)
        for name, block in block_table(spec, in_channels, self.strides, self.dilations,
                                       check_bool('contract_dilation', contract_dilation)):
            stage, _, place = name.partition('.')
            if place == '0':
                self.add_module(stage, nn.Sequential())
            if place:
                getattr(self, stage).append(MobileOneBlock(**block, **common))
            else:
                self.add_module(stage, MobileOneBlock(**block, **common))
        check_init_cfg(init_cfg, norm_cfg)
        self._widths = stage_widths(spec)
        self._freeze_stages()

    @property
    def deploy(self) -> bool:
        """Whether all blocks are in the deploy form."""
        return all(module.deploy for module in self.modules() if isinstance(module, MobileOneBlock))

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of the maps that ``forward`` returns, in the order of ``out_indices``."""
        return tuple(self._widths[i + 1] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Strides of the maps that ``forward`` returns, in input pixels."""
        strides = [2]
        for stride in self.strides:
            strides.append(strides[-1] * stride)
        return tuple(strides[i + 1] for i in self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, in_channels, H, W) -> a tuple of feature maps, one per entry of ``out_indices``."""
        if isinstance(x, Proxy):
            return self._forward(x)
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ArgumentError(f'MobileOne takes (N, {self.in_channels}, H, W), got {tuple(x.shape)}.')
        gains = self._gains_by_channels_last(x)
        fused = self.verify_kernels()
        with nullcontext() if fused is None else fused.verified():
            maps = self._forward(_in_channels_last(x) if gains else x)
        # The outputs get the input's layout: some necks and heads call view().
        return tuple(map(Tensor.contiguous, maps)) if gains else maps

    def _gains_by_channels_last(self, x: Tensor) -> bool:
        """Whether to convert a contiguous input to channels_last.

        False in a graph, whose compiler or runtime chooses its own layout, and in a transform of
        ``torch.func``: ``vmap`` supports no other layout.
        """
        if self.channels_last is False or is_in_graph() or not x.is_contiguous() or is_transformed(x):
            return False
        return bool(self.channels_last) or (x.device.type == 'cpu' and x.dtype == torch.float32
                                            and torch.backends.mkldnn.is_available())

    def _forward(self, x: Tensor) -> tuple[Tensor, ...]:
        stages = []
        x = self.stage0(x)
        for i in range(max(self.out_indices) + 1):
            x = getattr(self, f'stage{i + 1}')(x)
            stages.append(x)
        return tuple(stages[i] for i in self.out_indices)

    def _freeze_stages(self) -> None:
        for i in range(self.frozen_stages + 1):
            stage = getattr(self, f'stage{i}')
            stage.eval()
            stage.requires_grad_(False)

    def train(self, mode: bool = True) -> 'MobileOne':
        """Go to the train form, or with ``mode=False`` to the eval form; frozen stages stay in it."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says; ``Pretrained`` goes through our own strict loading.

        Raises:
            CheckpointError: The checkpoint cannot be found or downloaded, cannot be read, or does
                not fit.
        """
        if isinstance(self.init_cfg, list) and len(self.init_cfg) == 1:
            self.init_cfg = self.init_cfg[0]
        if not isinstance(self.init_cfg, dict) or initializer(self.init_cfg) != 'Pretrained':
            super().init_weights()
        elif not self.is_init:
            init_cfg = self.init_cfg | dict(type='Pretrained')
            expand = init_cfg.pop('expand', False)
            state_dict = load_pretrained(**init_cfg)
            self.load_state_dict(mark_checked(expand_state_dict(state_dict, self)) if expand else state_dict)
            if hasattr(self, '_params_init_info'):
                update_init_info(self, f'Pretrained: load from {self.init_cfg["checkpoint"]}')
            self._is_init = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *args) -> None:
        names = [key for key in state_dict if not prefix or (isinstance(key, str) and key.startswith(prefix))]
        ours = {key[len(prefix):] if prefix else key: state_dict.pop(key) for key in names}
        if prefix and not ours:
            raise CheckpointError(missing_backbone(state_dict, prefix))
        if not was_checked(ours, local_metadata, self):
            ours = adapt_state_dict(ours, self)
        state_dict.update({prefix + key: value for key, value in ours.items()})
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def switch_to_deploy(self) -> None:
        """Drop the branches for good, in place; the name is RepVGG's, and known to mmdeploy."""
        reparameterize_model(self, inplace=True)
