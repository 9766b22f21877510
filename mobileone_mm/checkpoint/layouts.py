"""Checkpoint layouts: tables that translate the keys of other code bases to ours."""
import re

import torch
from torch import Tensor, nn

from ..utils.errors import CheckpointError, some

# One table for all layouts: their vocabularies do not overlap. Ours and Apple's fused keys need no
# translation.
_TRANSLATIONS = [(re.compile(pattern), replacement) for pattern, replacement in [
    # Apple, ml-mobileone, unfused
    (r'\brbr_conv\.', 'conv_branches.'),
    (r'\brbr_scale\.', 'scale_branch.'),
    (r'\brbr_skip\.', 'skip_branch.'),
    # timm
    (r'^stem\.', 'stage0.'),
    (r'^stages\.0\.', 'stage1.'),
    (r'^stages\.1\.', 'stage2.'),
    (r'^stages\.2\.', 'stage3.'),
    (r'^stages\.3\.', 'stage4.'),
    (r'\bconv_kxk\.', 'conv_branches.'),
    (r'\bconv_scale\.', 'scale_branch.'),
    (r'\bidentity\.', 'skip_branch.'),
    (r'\battn\.fc1\.', 'se.reduce.'),
    (r'\battn\.fc2\.', 'se.expand.'),
    # mmpretrain
    (r'\bbranch_conv_list\.', 'conv_branches.'),
    (r'\bbranch_scale\.', 'scale_branch.'),
    (r'\bbranch_norm\.', 'skip_branch.'),
    (r'\b(conv_branches\.\d+|scale_branch)\.norm\.', r'\1.bn.'),
    (r'\bbranch_reparam\.', 'reparam_conv.'),
    (r'\bse\.conv1\.conv\.', 'se.reduce.'),
    (r'\bse\.conv2\.conv\.', 'se.expand.'),
]]
_CLASSIFIERS = ('linear.', 'head.')
SE = re.compile(r'\.(?:se|attn)\.')
_STEM = re.compile(r'^(.*?)(?:stage0|stem)\.(?:rbr_|conv_|branch_|reparam_|scale_|skip_|identity)')


def get_state_dict(checkpoint: dict) -> dict[str, Tensor]:
    """The weights in a checkpoint, averaged ones preferred; a bare state dict is returned as it is.

    timm's checkpoints have a separate key for the average (``state_dict_ema``). mmengine's EMAHook
    swaps when it saves: ``state_dict`` is the average, and training resumes from
    ``ema_state_dict``.
    """
    for key in ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'ema_state_dict'):
        if isinstance(checkpoint.get(key), dict):
            return {name: value for name, value in checkpoint[key].items()
                    if key != 'ema_state_dict' or name != 'steps'}
        if key == 'state_dict' and key in checkpoint:
            raise CheckpointError(f"The checkpoint's 'state_dict' is a {type(checkpoint[key]).__name__}, expected a "
                                  'dict of tensors. It is damaged.')
    return checkpoint


def without_module(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefix ``module.`` of DistributedDataParallel and EMAHook."""
    return {key.removeprefix('module.'): value for key, value in state_dict.items()}


def as_classifier(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a bare MobileOne with its classifier (Apple's, timm's), by mmpretrain's keys.

    Args:
        state_dict: Weights of any kind; all others are returned as they are.
        model: The model that is to load them.

    Raises:
        CheckpointError: There are two classifiers.
    """
    if find_prefixes(state_dict) != {''} or not hasattr(getattr(model, 'head', None), 'fc'):
        return state_dict
    classifier = {key: value for key, value in state_dict.items() if key.startswith(_CLASSIFIERS)}
    if not classifier:
        return state_dict
    if len({key.rpartition('.')[0] for key in classifier}) > 1:
        raise CheckpointError(f'The checkpoint has several classifiers: {some(classifier, 6)}. It mixes layouts.')
    backbone = {f'backbone.{key}': value for key, value in state_dict.items() if key not in classifier}
    return backbone | {f'head.fc.{key.rpartition(".")[2]}': value for key, value in classifier.items()}


def translate_state_dict(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Translate the backbone in a state dict of any known layout to our keys.

    Returns:
        The backbone's tensors by our keys, and the keys that were left out: a classifier, a neck, a
        head.

    Raises:
        CheckpointError: There is no MobileOne in it, or two tensors get the same key.
    """
    prefixes = find_prefixes(state_dict)
    if not prefixes:
        got = f'got keys such as {some(state_dict)}' if state_dict else 'it is empty'
        raise CheckpointError(f'This is no MobileOne checkpoint: {got}; known are the layouts of Apple, timm, '
                              'mmpretrain and mobileone_mm.')
    if len(prefixes) > 1:
        raise CheckpointError(f'Got several MobileOne backbones, below {some(prefixes)}. Choose one: '
                              f"init_cfg=dict(type='Pretrained', prefix={min(prefixes)!r}, ...).")
    prefix, = prefixes
    translated, left_out = {}, []
    for original, value in state_dict.items():
        key = original[len(prefix):]
        if not original.startswith(prefix) or key.startswith(_CLASSIFIERS):
            left_out.append(original)
            continue
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_complex():
            kind = f'{value.layout} {value.dtype} tensor' if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f'{original} is a {kind}, expected a plain tensor. The checkpoint is damaged, or no '
                                  'training checkpoint.')
        for pattern, replacement in _TRANSLATIONS:
            key = pattern.sub(replacement, key)
        if key in translated:
            raise CheckpointError(f'Two tensors of this checkpoint are {key}; one is {original}. It mixes layouts.')
        translated[key] = value
    return translated, left_out


def find_prefixes(state_dict: dict[str, Tensor]) -> set[str]:
    """The prefixes below which a state dict of any known layout has a MobileOne.

    Raises:
        CheckpointError: A key is no string.
    """
    strange = [key for key in state_dict if not isinstance(key, str)]
    if strange:
        raise CheckpointError(f'The checkpoint has keys that are no strings, such as {strange[0]!r}. It is damaged.')
    return {match.group(1) for match in map(_STEM.match, state_dict) if match}


def is_fused(state_dict: dict[str, Tensor]) -> bool:
    """Whether a state dict with our keys is of the deploy form."""
    return bool(fused_blocks(state_dict))


def fused_blocks(state_dict: dict[str, Tensor]) -> set[str]:
    """Names of the blocks that are fused in a state dict with our keys; of a block alone it is ``''``."""
    suffix = 'reparam_conv.weight'
    return {key.removesuffix(suffix).removesuffix('.') for key in state_dict if key.endswith(suffix)}


def find_in_channels(state_dict: dict[str, Tensor]) -> int:
    """Input channels of the stem in a state dict with our keys; 3 if there is none."""
    stem = next((value for key, value in state_dict.items()
                 if re.match(r'stage0\.(?:conv_b|reparam).*conv.weight', key)), None)
    return 3 if stem is None or stem.dim() != 4 else stem.shape[1]
