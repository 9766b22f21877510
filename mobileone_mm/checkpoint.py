"""Checkpoints: safe reading, key tables from other code bases to ours, and a check that they fit.

mmengine loads with ``strict=False`` and only logs what did not fit, which is how people train from
scratch without knowing it. Here a checkpoint fits, or it is an error.
"""
import os
import pickle
import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .arch import ARCHS, resolve_arch, stage_widths

if TYPE_CHECKING:
    from .mobileone import MobileOne

# One table for all layouts: their vocabularies do not overlap. Ours and Apple's fused keys need no translation.
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
    (r'\bbranch_reparam\.', 'reparam_conv.'),
    (r'\bse\.conv1\.conv\.', 'se.reduce.'),
    (r'\bse\.conv2\.conv\.', 'se.expand.'),
]]
_CLASSIFIERS = ('linear.', 'head.')
_STEM = re.compile(r'^(.*?)(?:stage0|stem)\.(?:rbr_|conv_|branch_|reparam_|scale_|skip_|identity)')

REMEDIES = ('Either download it by hand and point the config at the file '
            '(--cfg-options model.backbone.init_cfg.checkpoint=/path/to/file), '
            'or train from scratch (--cfg-options model.backbone.init_cfg=None).')


def allow_mmengine_globals() -> None:
    """Let ``torch.load(weights_only=True)`` read what mmengine's checkpoints hold beside tensors.

    Those are mmengine's log history and numpy scalars and arrays; nothing that runs code.
    """
    multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray
    dtypes = {type(np.dtype(name)) for name in ('bool', 'int32', 'int64', 'uint8', 'uint32', 'float32', 'float64')}
    torch.serialization.add_safe_globals(
        [HistoryBuffer, multiarray.scalar, multiarray._reconstruct, np.ndarray, np.dtype, *dtypes,
         (_history_buffer_method, 'builtins.getattr')])


def _history_buffer_method(owner: type, name: str):
    """Stands in for ``getattr``, with which a pickled HistoryBuffer names its own methods, and which could do more."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'Unsupported global: getattr of {owner!r}, {name!r}')
    return getattr(HistoryBuffer, name)


def read_checkpoint(filename: str, map_location: str | torch.device | None = None) -> dict:
    """Read a checkpoint from a local file, unpickling nothing that could run code.

    torch's own switch for a file that needs more and that you trust: the environment variable
    ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1``.

    Args:
        filename: Path of the file.
        map_location: As for ``torch.load``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no readable checkpoint, or needs more than safe unpickling.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'Checkpoint {filename!r} does not exist. Check the path.')
    allow_mmengine_globals()  # again: a load by mmengine itself takes its own from torch's list when it ends
    try:
        # No explicit weights_only: torch's default is True, and its environment variable keeps working.
        checkpoint = torch.load(filename, map_location=map_location)
    except pickle.UnpicklingError as error:
        refused = re.search(r'Unsupported (?:global|class|operand)[^\n]*?([\w.]+\.\w+)|GLOBAL ([\w.]+)', str(error))
        if refused:
            raise ValueError(
                f'{filename!r} holds more than tensors ({refused[1] or refused[2]}), which could run code when loaded, and '
                'was refused. Only if you trust where it comes from: set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the '
                'environment.') from error
        raise ValueError(f'{filename!r} is not a PyTorch checkpoint, or is damaged. Fetch it again.') from error
    except (RuntimeError, EOFError, OSError, KeyError, AttributeError) as error:
        raise ValueError(f'{filename!r} is not a PyTorch checkpoint, or is damaged ({error}). Fetch it again.') from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{filename!r} holds a {type(checkpoint).__name__}, expected a state dict or a checkpoint with '
                         "the key 'state_dict'.")
    return checkpoint


def use_safe_loading() -> None:
    """Make mmengine read local checkpoints through :func:`read_checkpoint`, without its unsafe fallback."""
    CheckpointLoader.register_scheme(prefixes='', loader=_read_for_mmengine, force=True)


def _read_for_mmengine(filename: str, map_location=None, logger=None) -> dict:
    return read_checkpoint(filename, map_location)


def load_pretrained(checkpoint: str, prefix: str | None = None, map_location: str = 'cpu', type: str = 'Pretrained'):
    """Fetch the state dict that an ``init_cfg`` of type ``Pretrained`` names.

    Args:
        checkpoint: Path, or an URL, which is downloaded once and kept by torch's hub.
        prefix: Take only the keys below this prefix, e.g. ``'backbone.'``.
        map_location: As for ``torch.load``.
        type: The ``init_cfg``'s type, for the log.

    Raises:
        RuntimeError: A download failed; the message names the remedies.
        FileNotFoundError: There is no such local file.
        ValueError: It is no readable checkpoint, or has no keys below ``prefix``.
    """
    print_log(f'{type}: load MobileOne from {checkpoint}', logger='current')
    if checkpoint.startswith(('http://', 'https://')):
        checkpoint = _download(checkpoint)
    try:
        content = read_checkpoint(checkpoint, map_location)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{error} {REMEDIES}') from error
    state_dict = content.get('state_dict', content)
    if prefix is not None:
        prefix = prefix.rstrip('.') + '.'
        state_dict = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
        if not state_dict:
            raise ValueError(f'{checkpoint!r} has no keys below prefix={prefix!r}.')
    return state_dict


def _download(url: str) -> str:
    """Path of the file behind an URL, downloaded once a machine into torch's hub folder, whole or not at all."""
    path = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(url))
    error = None
    if get_local_rank() == 0 and not os.path.isfile(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, path)
        except OSError as caught:  # raised only after the barrier, where the other processes wait
            error = caught
    barrier()
    if error is not None or not os.path.isfile(path):
        raise RuntimeError(f'Could not download the pretrained weights {url} ({error or "see rank 0"}). {REMEDIES}') \
            from error
    return path


def adapt_state_dict(state_dict: dict[str, Tensor], model: 'MobileOne') -> dict[str, Tensor]:
    """Translate a state dict of any known layout to ours, and check that it fits ``model``.

    Known are ours, Apple's, timm's and mmpretrain's, fused or not, with or without a classifier
    (which is left out), bare or below a prefix such as ``backbone.`` (the rest is left out).

    Args:
        state_dict: What to load.
        model: The backbone that is to load it.

    Returns:
        State dict with the keys of ``model``, or for a deploy-form ``model`` possibly the train
        layout, which its blocks fuse.

    Raises:
        ValueError: It is no MobileOne, of another arch, or incomplete; the message says which.
    """
    stems = [match.group(1) for match in map(_STEM.match, state_dict) if match]
    if not stems:
        raise ValueError(f'This is no MobileOne checkpoint: got keys such as {_some(state_dict)}; known are the '
                         'layouts of Apple, timm, mmpretrain and mobileone_mm.')
    prefix = min(stems, key=len)
    translated = {}
    for key, value in state_dict.items():
        if key.startswith(prefix) and not (key := key[len(prefix):]).startswith(_CLASSIFIERS):
            for pattern, replacement in _TRANSLATIONS:
                key = pattern.sub(replacement, key)
            translated[key] = value
    fused = any(key.endswith('reparam_conv.weight') for key in translated)
    if fused and not model.deploy:
        raise ValueError(
            "Got fused (deploy) weights, but this MobileOne is in the train form, whose branches cannot be restored "
            "from them. Build it with deploy=True (--cfg-options model.backbone.deploy=True), or load the unfused "
            "checkpoint that they were made from (Apple's end in _unfused.pth.tar).")
    _check_fit(translated, model, fused)
    return translated


def _check_fit(state_dict: dict[str, Tensor], model: 'MobileOne', fused: bool) -> None:
    expected = model.state_dict()
    if model.deploy and not fused:
        with torch.device('meta'):
            expected = type(model)(model.arch, model.in_channels, norm_cfg=model.norm_cfg).state_dict()
    for key in expected.keys() - state_dict.keys():
        if key.endswith('num_batches_tracked'):  # absent from old checkpoints; 0 is what it starts from
            state_dict[key] = torch.tensor(0)
    missing = expected.keys() - state_dict.keys()
    unexpected = state_dict.keys() - expected.keys()
    reshaped = [f'{key} {tuple(state_dict[key].shape)} instead of {tuple(expected[key].shape)}'
                for key in expected if key in state_dict and state_dict[key].shape != expected[key].shape]
    if not (missing or unexpected or reshaped):
        return
    got = guess_arch(state_dict)
    if got is not None and resolve_arch(got) != resolve_arch(model.arch):
        raise ValueError(f"These are MobileOne {got!r} weights, but the config says arch={model.arch!r}. Set "
                         f"arch={got!r}, or load weights of {model.arch!r}.")
    details = [f'missing: {_some(missing)}' if missing else '', f'unexpected: {_some(unexpected)}' if unexpected else '',
               f'wrong shape: {_some(reshaped)}' if reshaped else '']
    raise ValueError(f'The checkpoint does not fit MobileOne(arch={model.arch!r}, in_channels={model.in_channels}); '
                     f'{"; ".join(filter(None, details))}. It is incomplete, damaged, or of another network.')


def guess_arch(state_dict: dict[str, Tensor]) -> str | None:
    """The name in ``ARCHS`` whose widths, branches and SE blocks a state dict in our layout has, or None."""
    widths, num_branches = {}, set()
    for key, value in state_dict.items():
        match = re.match(r'stage(\d)\.(?:(\d+)\.)?(?:conv_branches\.(\d+)\.conv|reparam_conv)\.weight$', key)
        if match and value.dim() == 4:
            widths[int(match[1])] = max(widths.get(int(match[1]), (-1, 0)), (int(match[2] or 0), value.shape[0]))
            num_branches.add(int(match[3] or 0) + 1)
    has_se = any('.se.' in key for key in state_dict)
    fused = any('reparam_conv' in key for key in state_dict)
    for name, arch in ARCHS.items():
        if tuple(widths[i][1] for i in sorted(widths)) == stage_widths(arch) and has_se == any(arch['num_se_blocks']) \
                and (fused or max(num_branches) == arch['num_conv_branches']):
            return name
    return None


def _some(items, limit: int = 3) -> str:
    items = sorted(items)
    return ', '.join(items[:limit]) + (f' and {len(items) - limit} more' if len(items) > limit else '')
