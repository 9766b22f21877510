"""Checkpoints: safe reading, key tables from other code bases to ours, and a check that they fit.

mmengine loads with ``strict=False`` and only logs what did not fit, which is how people train from
scratch without knowing it. Here a checkpoint fits, or it is an error.
"""
import os
import pickle
import re
from http.client import HTTPException
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .arch import ARCHS

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
_SE = re.compile(r'\.(?:se|attn)\.')
_STEM = re.compile(r'^(.*?)(?:stage0|stem)\.(?:rbr_|conv_|branch_|reparam_|scale_|skip_|identity)')

REMEDIES = ('Either download it by hand and point the config at the file '
            '(--cfg-options model.backbone.init_cfg.checkpoint=/path/to/file), '
            'or train from scratch (--cfg-options model.backbone.init_cfg=None).')


class CheckpointError(ValueError):
    """A checkpoint cannot be had, cannot be read safely, or does not fit the model."""


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
        CheckpointError: It is no readable checkpoint, or needs more than safe unpickling.
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
            raise CheckpointError(
                f'{filename!r} holds more than tensors ({refused[1] or refused[2]}), which could run code when loaded, and '
                'was refused. Only if you trust where it comes from: set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the '
                'environment.') from error
        raise CheckpointError(f'{filename!r} is not a PyTorch checkpoint, or is damaged. Fetch it again.') from error
    except (RuntimeError, EOFError, OSError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f'{filename!r} is not a PyTorch checkpoint, or is damaged ({error}). Fetch it again.') from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{filename!r} holds a {type(checkpoint).__name__}, expected a state dict or a checkpoint '
                              "with the key 'state_dict'.")
    return checkpoint


def use_safe_loading() -> None:
    """Make mmengine read checkpoints, local ones and by URL, through :func:`read_checkpoint`.

    Its own loaders fall back to unpickling anything (onedl's, for local files), or do so at once (by URL).
    """
    CheckpointLoader.register_scheme(prefixes='', loader=_load_local, force=True)
    CheckpointLoader.register_scheme(prefixes=['http://', 'https://'], loader=_load_url, force=True)


def _load_local(filename: str, map_location=None) -> dict:
    return read_checkpoint(filename, map_location)


def _load_url(filename: str, map_location=None) -> dict:
    return read_checkpoint(_download(filename), map_location)


def load_pretrained(checkpoint: str, prefix: str | None = None, map_location: str = 'cpu', type: str = 'Pretrained',
                    drop_se: bool = False) -> dict[str, Tensor]:
    """Fetch the state dict that an ``init_cfg`` of type ``Pretrained`` names.

    Args:
        checkpoint: Path, or an URL, which is downloaded once and kept by torch's hub.
        prefix: Take only the keys below this prefix, e.g. ``'backbone.'``.
        map_location: As for ``torch.load``.
        type: The ``init_cfg``'s type, for the log.
        drop_se: Leave Squeeze-and-Excitation out, to start S4 without it from the weights of S4.

    Raises:
        CheckpointError: There is no such file, the download failed, it is no readable checkpoint, or has no keys
            below ``prefix``; the message names the remedies.
    """
    print_log(f'{type}: load MobileOne from {checkpoint}', logger='current')
    if checkpoint.startswith(('http://', 'https://')):
        checkpoint = _download(checkpoint)
    try:
        content = read_checkpoint(checkpoint, map_location)
    except FileNotFoundError as error:
        raise CheckpointError(f'{error} {REMEDIES}') from error
    state_dict = content.get('state_dict', content)
    if prefix is not None:
        prefix = prefix.rstrip('.') + '.'
        state_dict = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
        if not state_dict:
            raise CheckpointError(f'{checkpoint!r} has no keys below prefix={prefix!r}.')
    if drop_se:
        state_dict = {key: value for key, value in state_dict.items() if not _SE.search(key)}
    return state_dict


def _download(url: str) -> str:
    """Path of the file behind an URL, downloaded once a machine into torch's hub folder.

    What arrives is kept only if it can be read: a download that broke off leaves nothing.
    """
    path = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(url))
    error = None
    if get_local_rank() == 0 and not os.path.isfile(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part = f'{path}.part'
        try:
            torch.hub.download_url_to_file(url, part)
            read_checkpoint(part, 'cpu')
            os.replace(part, path)
        except (OSError, HTTPException, CheckpointError) as caught:
            error = caught  # raised only after the barrier, where the other processes wait
        finally:
            if os.path.exists(part):
                os.unlink(part)
    barrier()
    if error is not None or not os.path.isfile(path):
        raise CheckpointError(f'Could not download the pretrained weights {url} ({error or "see rank 0"}). {REMEDIES}') \
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
        CheckpointError: It is no MobileOne, of another arch, or incomplete; the message says which.
    """
    stems = [match.group(1) for match in map(_STEM.match, state_dict) if match]
    if not stems:
        raise CheckpointError(f'This is no MobileOne checkpoint: got keys such as {_some(state_dict)}; known are the '
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
        raise CheckpointError(
            "Got fused (deploy) weights, but this MobileOne is in the train form, whose branches cannot be restored "
            "from them. To train, load the unfused checkpoint that they were made from (Apple's end in "
            "_unfused.pth.tar); to test, build it with deploy=True (--cfg-options model.backbone.deploy=True).")
    _check_fit(translated, model, fused)
    return translated


def _check_fit(state_dict: dict[str, Tensor], model: 'MobileOne', fused: bool) -> None:
    expected = model.state_dict()
    if model.deploy and not fused:
        expected = _empty_state_dict(type(model), model.arch, model.in_channels, norm_cfg=model.norm_cfg)
    # Step counters are absent from old checkpoints; 0 is what they start from.
    counters = {key for key in expected.keys() - state_dict.keys() if key.endswith('num_batches_tracked')}
    missing = expected.keys() - state_dict.keys() - counters
    unexpected = state_dict.keys() - expected.keys()
    reshaped = [f'{key} {tuple(state_dict[key].shape)} instead of {tuple(expected[key].shape)}'
                for key in expected if key in state_dict and state_dict[key].shape != expected[key].shape]
    if not (missing or unexpected or reshaped):
        state_dict.update({key: torch.tensor(0) for key in counters})
        return
    for name in ARCHS:
        other = _empty_state_dict(type(model), name, model.in_channels, norm_cfg=model.norm_cfg, deploy=fused)
        if {key: value.shape for key, value in other.items()} == {k: v.shape for k, v in state_dict.items()}:
            raise CheckpointError(f"These are MobileOne {name!r} weights, but the config says arch={model.arch!r}. Set "
                                  f"arch={name!r}, or load weights of {model.arch!r}.")
    details = [f'missing: {_some(missing)}' if missing else '', f'unexpected: {_some(unexpected)}' if unexpected else '',
               f'wrong shape: {_some(reshaped)}' if reshaped else '']
    raise CheckpointError(f'The checkpoint does not fit MobileOne(arch={model.arch!r}, in_channels={model.in_channels}); '
                          f'{"; ".join(filter(None, details))}. It is incomplete, damaged, or of another network.')


def _empty_state_dict(backbone: type, *args, **kwargs) -> dict[str, Tensor]:
    """Keys and shapes of a backbone, without memory for it."""
    with torch.device('meta'):
        return backbone(*args, **kwargs).state_dict()


def _some(items, limit: int = 3) -> str:
    items = sorted(items)
    return ', '.join(items[:limit]) + (f' and {len(items) - limit} more' if len(items) > limit else '')
