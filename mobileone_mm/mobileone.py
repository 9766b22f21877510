"""The MobileOne backbone."""
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from mmengine.model import BaseModule
from mmengine.model.weight_init import update_init_info
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.modules.batchnorm import _BatchNorm

from .arch import check_per_stage, resolve_arch, stage_widths
from .block import MobileOneBlock, reparameterize_model
from .checkpoint.expand import expand_state_dict
from .checkpoint.fit import adapt_state_dict, missing_backbone
from .checkpoint.read import load_pretrained
from .kernel_cache import FusedKernels, HoldsFusedKernels
from .utils.errors import CheckpointError


@MODELS.register_module()
class MobileOne(HoldsFusedKernels, BaseModule):
    """MobileOne (https://arxiv.org/abs/2206.04040), reparameterized on ``eval()`` and back on ``train()``.

    ``stage0`` is the stem at stride 2; ``stage1`` to ``stage4`` alternate depthwise 3x3 and pointwise 1x1
    :class:`MobileOneBlock`. ``state_dict()`` is the train layout in train and in eval form alike.

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
        arch: Name from ``ARCHS`` (``s4_nose`` is S4 without Squeeze-and-Excitation, the paper's S4 for
            segmentation), or a dict with the keys of its rows.
        in_channels: Channels of the input.
        out_indices: Stages to return: 0 to 3 are stage1 to stage4, negative ones count from the end.
        strides: Stride of each stage, 1 or 2. A stage turned from 2 to 1 keeps its branches, so that
            pretrained weights still fit.
        dilations: Dilation of the depthwise convolutions of each stage, as in mmseg's ResNet.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and stages 1 to n: no gradients, norms
            in eval mode, hence folded.
        norm_eval: Keep all norms in eval mode while training, hence folded, with exact gradients.
        norm_cfg: Batch norm: ``BN``, ``BN2d`` or ``SyncBN``.
        act_cfg: Activation of every block, or None.
        with_cp: Recompute blocks in the backward pass to save memory.
        deploy: Build the deploy form; it loads train-layout checkpoints too, and fuses them.
        init_cfg: mmengine's initialization config. None: PyTorch's own initialization, as in Apple's code.
            (mmengine's Kaiming takes a depthwise kernel's fan-out to be of all channels, and makes it tiny.)
            ``dict(type='Pretrained', checkpoint=PATH_OR_URL)`` takes Apple's, timm's, mmpretrain's and our own weights
            (:func:`mobileone_mm.checkpoint.read.load_pretrained`), and with ``expand=True`` fused ones for the train form
            (:func:`mobileone_mm.expand_state_dict`).
        contract_dilation: Halve a stage's dilation in its first depthwise block, as mmseg's ResNet does.
            Where a stride of 2 was turned into dilation 2, pretrained weights then see the very grid that they
            were trained on.
        fast_train: With ``norm_eval``, train by one folded convolution a block, with exact gradients for all branches
            (``benchmarks/train_step.py`` measures what that saves). False: always by the sum of the branches.

    Raises:
        ValueError: An argument outside of its range; the message names the range.
    """

    def __init__(self, arch: str | dict = 's0', in_channels: int = 3, out_indices: Sequence[int] = (3, ),
                 strides: Sequence[int] = (2, 2, 2, 2), dilations: Sequence[int] = (1, 1, 1, 1),
                 frozen_stages: int = -1, norm_eval: bool = False, norm_cfg: dict = dict(type='BN'),
                 act_cfg: dict | None = dict(type='ReLU'), with_cp: bool = False, deploy: bool = False,
                 init_cfg: dict | list | None = None, contract_dilation: bool = False, fast_train: bool = True):
        super().__init__(init_cfg)
        self.arch = arch
        spec = resolve_arch(arch)
        self.strides = check_per_stage('strides', strides, allowed=(1, 2))
        self.dilations = check_per_stage('dilations', dilations)
        if any(not isinstance(d, int) or d < 1 for d in self.dilations):
            raise ValueError(f'dilations must be ints of at least 1, got {tuple(dilations)}.')
        if not isinstance(out_indices, Sequence) or not out_indices or \
                any(not isinstance(i, int) or not -4 <= i <= 3 for i in out_indices):
            raise ValueError('out_indices must be a sequence of ints in 0..3 (stage1 to stage4) or -4..-1, got '
                             f'{out_indices!r}.')
        if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= 4:
            raise ValueError('frozen_stages must be -1 (none), 0 (the stem) or 1..4 (stem and stages 1..n), got '
                             f'{frozen_stages!r}.')
        if not isinstance(in_channels, int) or in_channels < 1:
            raise ValueError(f'in_channels must be an int of at least 1, got {in_channels!r}.')
        self.in_channels = in_channels
        self.out_indices = tuple(i % 4 for i in out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.norm_cfg = norm_cfg
        self.deploy = deploy

        widths = stage_widths(spec)
        common = dict(norm_cfg=norm_cfg, act_cfg=act_cfg, with_cp=with_cp, fast_train=fast_train, deploy=deploy)
        self.stage0 = MobileOneBlock(in_channels, widths[0], 3, stride=2, **common)
        for i, (stride, dilation) in enumerate(zip(self.strides, self.dilations, strict=True)):
            blocks = []
            num_blocks = spec['num_blocks'][i]
            for j in range(num_blocks):
                is_first = j == 0
                width = widths[i] if is_first else widths[i + 1]
                with_se = j >= num_blocks - spec['num_se_blocks'][i]
                branches = dict(num_conv_branches=spec['num_conv_branches'], with_se=with_se, **common)
                contracts = is_first and contract_dilation and dilation > 1
                blocks.append(MobileOneBlock(
                    width, width, 3, stride=stride if is_first else 1, groups=width,
                    dilation=dilation // 2 if contracts else dilation,
                    # Also at stride 1 the first block has no skip: no checkpoint has one there.
                    with_skip=not is_first, **branches))
                blocks.append(MobileOneBlock(width, widths[i + 1], 1, **branches))
            self.add_module(f'stage{i + 1}', nn.Sequential(*blocks))
        self._widths = widths
        self._freeze_stages()

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
            raise ValueError(f'MobileOne takes (N, {self.in_channels}, H, W), got {tuple(x.shape)}.')
        gains = self._gains_by_channels_last(x)
        fused = self.verify_kernels()
        with nullcontext() if fused is None else fused.verified():
            maps = self._forward(x.contiguous(memory_format=torch.channels_last) if gains else x)
        # Necks and heads get the layout that they gave: some call view().
        return tuple(map(Tensor.contiguous, maps)) if gains else maps

    def _gains_by_channels_last(self, x: Tensor) -> bool:
        """Whether a plain input is worth converting: one convolution a block, on a CPU, takes about half to all of the time.

        Not where gradients may be wanted, nor in a graph, whose runtime chooses its own layout.
        """
        return x.device.type == 'cpu' and x.dtype == torch.float32 and x.is_contiguous() and not self.training \
            and torch.backends.mkldnn.is_available() and not torch.is_grad_enabled() \
            and not torch.compiler.is_compiling() and not torch.jit.is_tracing()

    def _forward(self, x: Tensor) -> tuple[Tensor, ...]:
        stages = []
        x = self.stage0(x)
        for i in range(max(self.out_indices) + 1):
            x = getattr(self, f'stage{i + 1}')(x)
            stages.append(x)
        return tuple(stages[i] for i in self.out_indices)

    def verify_kernels(self) -> FusedKernels | None:
        """The kernels of all blocks, verified at once, which costs less than block by block; None: ask the blocks."""
        if self.deploy or self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() \
                or torch.jit.is_tracing():
            return None
        fused = self._fused
        if fused is None or not fused.is_fresh():
            blocks = [module for module in self.modules() if isinstance(module, MobileOneBlock)]
            if any(block.deploy or not block.is_folding for block in blocks):
                return None
            fused = FusedKernels(self, {id(block): block.kept_kernel() for block in blocks})
            self._fused = fused
        return fused

    def _freeze_stages(self) -> None:
        for i in range(self.frozen_stages + 1):
            stage = getattr(self, f'stage{i}')
            stage.eval()
            stage.requires_grad_(False)

    def train(self, mode: bool = True) -> 'MobileOne':
        """Go to the train form, or with ``mode=False`` to the eval form; honours what is frozen."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Initialize as ``init_cfg`` says; ``Pretrained`` goes through our own strict loading.

        Raises:
            CheckpointError: The checkpoint cannot be had, cannot be read, or does not fit.
        """
        if isinstance(self.init_cfg, list) and len(self.init_cfg) == 1:
            self.init_cfg = self.init_cfg[0]
        if not isinstance(self.init_cfg, dict) or self.init_cfg.get('type') != 'Pretrained':
            super().init_weights()
        elif not self.is_init:
            init_cfg = dict(self.init_cfg)
            expand = init_cfg.pop('expand', False)
            state_dict = load_pretrained(**init_cfg)
            self.load_state_dict(expand_state_dict(state_dict, self) if expand else state_dict)
            if hasattr(self, '_params_init_info'):
                update_init_info(self, f'Pretrained: load from {self.init_cfg["checkpoint"]}')
            self._is_init = True

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        names = [key for key in state_dict if not prefix or (isinstance(key, str) and key.startswith(prefix))]
        ours = {key[len(prefix):] if prefix else key: state_dict.pop(key) for key in names}
        if ours or not prefix:
            ours = adapt_state_dict(ours, self)
        else:
            raise CheckpointError(missing_backbone(state_dict, prefix))
        state_dict.update({prefix + key: value for key, value in ours.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def switch_to_deploy(self) -> None:
        """Drop the branches for good, in place; mmdeploy and RepVGG users know it by this name."""
        reparameterize_model(self, inplace=True)
