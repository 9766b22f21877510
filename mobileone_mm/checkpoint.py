"""Checkpoints: safe reading, key tables from other code bases to ours, and a check that they fit.

mmengine loads with ``strict=False`` and only logs what did not fit, which is how people train from
scratch without knowing it. Here a checkpoint fits, or it is an error.
"""
import functools
import hashlib
import logging
import os
import pickle
import re
import zipfile
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor, nn

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
    (r'\b(conv_branches\.\d+|scale_branch)\.norm\.', r'\1.bn.'),
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


def read_checkpoint(filename: str, map_location: str | torch.device | None = None, trust: bool = False) -> dict:
    """Read a checkpoint from a local file, unpickling nothing that could run code.

    Args:
        filename: Path of the file.
        map_location: As for ``torch.load``.
        trust: Unpickle anything, which may run code from the file. So does, in all tools, torch's own switch, the
            environment variable ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1``.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is no readable checkpoint, or needs more than safe unpickling.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'Checkpoint {filename!r} does not exist. Check the path.')
    allow_mmengine_globals()  # again: a load by mmengine itself takes its own from torch's list when it ends
    try:
        if not zipfile.is_zipfile(filename):
            print_log(f'{filename} is in the format before torch 1.6, which has no checksums: damage may go unseen. '
                      'Saved again with torch.save, it would have them.', logger='current', level=logging.WARNING)
        elif not trust:
            with zipfile.ZipFile(filename) as archive:  # torch itself skips the checksums
                if damaged := archive.testzip():
                    raise RuntimeError(f'wrong checksum of {damaged}')
        # No explicit weights_only: torch's default is True, and its environment variable keeps working.
        checkpoint = torch.load(filename, map_location=map_location, **(dict(weights_only=False) if trust else {}))
    except pickle.UnpicklingError as error:
        refused = re.search(r'Unsupported (?:global|class|operand)[^\n]*?([\w.]+\.\w+)|GLOBAL ([\w.]+)', str(error))
        if refused:
            raise CheckpointError(
                f'{filename!r} holds more than tensors ({refused[1] or refused[2]}), which could run code when loaded, and '
                'was refused. Only if you trust where it comes from: set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the '
                'environment, or rewrite it once with --trust: tools/convert_checkpoint.py for a backbone, '
                'tools/reparameterize.py for a whole model.') from error
        raise CheckpointError(f'{filename!r} is not a PyTorch checkpoint, or is damaged. Fetch it again.') from error
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f'{filename!r} is not a PyTorch checkpoint, or is damaged ({error}). Fetch it again.') from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{filename!r} holds a {type(checkpoint).__name__}, expected a state dict or a checkpoint '
                              "with the key 'state_dict'.")
    return checkpoint


def use_safe_loading() -> None:
    """Make mmengine read checkpoints, from wherever, through :func:`read_checkpoint` or at least as safely.

    Its own loaders fall back to unpickling anything (onedl's).
    """
    CheckpointLoader.register_scheme(prefixes='', loader=_load_local, force=True)
    CheckpointLoader.register_scheme(prefixes=['http://', 'https://'], loader=_load_url, force=True)
    # What the other schemes (open-mmlab://, s3://, ...) call on the onedl line; upstream calls torch.load, which is safe.
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        mmengine_checkpoint._safe_torch_load = _load_file_or_buffer


def _load_local(filename: str, map_location=None) -> dict:
    checkpoint = read_checkpoint(filename, map_location)
    # mmengine takes what is under state_dict, or else everything.
    weights = get_state_dict(checkpoint)
    if weights is not checkpoint:
        checkpoint['state_dict'] = weights
    return checkpoint


def _load_url(filename: str, map_location=None) -> dict:
    return _load_local(_download(filename), map_location)


def _load_file_or_buffer(file, map_location=None, weights_only=None) -> dict:
    if isinstance(file, (str, os.PathLike)):
        return _load_local(os.fspath(file), map_location)
    allow_mmengine_globals()
    file.seek(0)
    return torch.load(file, map_location=map_location)


def load_pretrained(checkpoint: str, prefix: str | None = None, map_location: str = 'cpu', type: str = 'Pretrained',
                    drop_se: bool = False, trust: bool = False) -> dict[str, Tensor]:
    """Fetch the state dict that an ``init_cfg`` of type ``Pretrained`` names.

    Args:
        checkpoint: Path, or an URL, which is downloaded once and kept by torch's hub.
        prefix: Take only the keys below this prefix, e.g. ``'backbone.'``.
        map_location: As for ``torch.load``.
        type: The ``init_cfg``'s type, for the log.
        drop_se: Leave Squeeze-and-Excitation out, to start S4 without it from the weights of S4.
        trust: As for :func:`read_checkpoint`.

    Raises:
        CheckpointError: There is no such file, the download failed, it is no readable checkpoint, or has no keys
            below ``prefix``; the message names the remedies.
    """
    print_log(f'{type}: load MobileOne from {checkpoint}', logger='current')
    if checkpoint.startswith(('http://', 'https://')):
        checkpoint = _download(checkpoint)
    try:
        content = read_checkpoint(checkpoint, map_location, trust)
    except FileNotFoundError as error:
        raise CheckpointError(f'{error} {REMEDIES}') from error
    state_dict = get_state_dict(content)
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
    # Two sites may call their files alike.
    name = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}-{os.path.basename(urlparse(url).path)}'
    path = os.path.join(torch.hub.get_dir(), 'checkpoints', name)
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


def get_state_dict(checkpoint: dict) -> dict[str, Tensor]:
    """The weights in a checkpoint, averaged ones preferred; a bare state dict is returned as it is.

    timm's checkpoints hold the average apart (``state_dict_ema``). mmengine's EMAHook swaps when it saves, so that
    ``state_dict`` is the average, and ``ema_state_dict`` what training goes on with.
    """
    for key in ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'ema_state_dict'):
        if isinstance(checkpoint.get(key), dict):
            return {name: value for name, value in checkpoint[key].items() if key != 'ema_state_dict' or name != 'steps'}
        if key == 'state_dict' and key in checkpoint:
            raise CheckpointError(f"The checkpoint's 'state_dict' is a {type(checkpoint[key]).__name__}, expected a dict of "
                                  'tensors. It is damaged.')
    return checkpoint


def without_module(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what DistributedDataParallel and EMAHook put before the keys."""
    return {key.removeprefix('module.'): value for key, value in state_dict.items()}


def as_classifier(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights for an mmpretrain classifier, where they are a bare MobileOne with its own, as Apple and timm have them.

    Args:
        state_dict: Weights of any kind; all others are returned as they are.
        model: What is to load them.

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
        The backbone's tensors by our keys, and the keys that were left out: a classifier, a neck, a head.

    Raises:
        CheckpointError: There is no MobileOne in it, or two tensors get the same key.
    """
    prefixes = find_prefixes(state_dict)
    if not prefixes:
        got = f'got keys such as {some(state_dict)}' if state_dict else 'it is empty'
        raise CheckpointError(f'This is no MobileOne checkpoint: {got}; known are the layouts of Apple, timm, mmpretrain '
                              'and mobileone_mm.')
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
    """Where in a state dict of any known layout there is a MobileOne: what stands before its keys.

    Raises:
        CheckpointError: A key is no string.
    """
    strange = [key for key in state_dict if not isinstance(key, str)]
    if strange:
        raise CheckpointError(f'The checkpoint has keys that are no strings, such as {strange[0]!r}. It is damaged.')
    return {match.group(1) for match in map(_STEM.match, state_dict) if match}


def is_fused(state_dict: dict[str, Tensor]) -> bool:
    """Whether a state dict with our keys is of the deploy form."""
    return any(key.endswith('reparam_conv.weight') for key in state_dict)


def find_arch(state_dict: dict[str, Tensor]) -> str | None:
    """The name in ``ARCHS`` whose keys and shapes a state dict with our keys has, train or deploy form; or None."""
    shapes = {key: value.shape for key, value in state_dict.items() if not key.endswith('num_batches_tracked')}
    in_channels = find_in_channels(state_dict)
    return next((name for name in ARCHS if _arch_shapes(name, in_channels, is_fused(state_dict)) == shapes), None)


def find_in_channels(state_dict: dict[str, Tensor]) -> int:
    """Input channels of the stem in a state dict with our keys; 3 if there is none."""
    stem = next((value for key, value in state_dict.items() if re.match(r'stage0\.(?:conv_b|reparam).*conv.weight', key)),
                None)
    return 3 if stem is None or stem.dim() != 4 else stem.shape[1]


@functools.cache
def _arch_shapes(name: str, in_channels: int, fused: bool) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in _empty_state_dict(name, in_channels, deploy=fused).items()
            if not key.endswith('num_batches_tracked')}


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
    translated, _ = translate_state_dict(state_dict)
    fused = is_fused(translated)
    if fused and not model.deploy:
        raise CheckpointError(
            "Got fused (deploy) weights, but this MobileOne is in the train form, whose branches cannot be restored "
            "from them. To train, load the unfused checkpoint that they were made from (Apple's end in "
            "_unfused.pth.tar), or put the kernels into fresh branches (in the config of the backbone, "
            "init_cfg=dict(_delete_=True, type='Pretrained', checkpoint=THIS_FILE, expand=True)); to test, build it with "
            'deploy=True (--cfg-options model.backbone.deploy=True).')
    check_fit(translated, model)
    return translated


def missing_backbone(state_dict: dict[str, Tensor], prefix: str) -> str:
    """The message for weights of a whole model that have nothing for the MobileOne below ``prefix``."""
    if '' in find_prefixes(state_dict):
        return (f'Got weights of a backbone alone, expected those of a whole model with keys below {prefix!r}. They go to '
                "the backbone's init_cfg: --cfg-options model.backbone.init_cfg.checkpoint=PATH.")
    got = f'but keys such as {some(state_dict)}' if state_dict else 'perhaps those of a backbone alone (for its init_cfg)'
    return f'Got no weights of a MobileOne below {prefix!r}, {got}. The checkpoint is of another model.'


def check_fit(state_dict: dict[str, Tensor], model: 'MobileOne') -> None:
    """Check that a state dict with our keys fits a model's arch, in the train or in the deploy form, and is finite.

    Absent step counters of norms are filled in.

    Raises:
        CheckpointError: It does not; the message says what was got and expected, and of which arch it is.
    """
    expected = model.state_dict()
    fused = is_fused(state_dict)
    if model.deploy != fused:
        expected = _empty_state_dict(model.arch, model.in_channels, norm_cfg=model.norm_cfg, deploy=fused)
    # Step counters are absent from old checkpoints; 0 is what they start from.
    counters = {key for key in expected.keys() - state_dict.keys() if key.endswith('num_batches_tracked')}
    missing = expected.keys() - state_dict.keys() - counters
    unexpected = state_dict.keys() - expected.keys()
    reshaped = [f'{key} {tuple(state_dict[key].shape)} instead of {tuple(expected[key].shape)}'
                for key in expected if key in state_dict and state_dict[key].shape != expected[key].shape]
    if missing or unexpected or reshaped:
        name = find_arch(state_dict)
        if name is not None and name != model.arch:
            raise CheckpointError(f"These are MobileOne {name!r} weights, but the config says arch={model.arch!r}. Set "
                                  f"arch={name!r}, or load weights of {model.arch!r}.")
        details = [f'missing: {some(missing)}' if missing else '',
                   f'unexpected: {some(unexpected)}' if unexpected else '',
                   f'wrong shape: {some(reshaped)}' if reshaped else '']
        raise CheckpointError(
            f'The checkpoint does not fit MobileOne(arch={model.arch!r}, in_channels={model.in_channels}); '
            f'{"; ".join(filter(None, details))}. It is incomplete, damaged, or of another network.')
    retyped = [f'{key} {state_dict[key].dtype}' for key, value in expected.items()
               if key in state_dict and state_dict[key].is_floating_point() != value.is_floating_point()]
    if retyped:
        raise CheckpointError(f'Tensors of the wrong kind: {some(retyped)}. The checkpoint is damaged.')
    if any(value.is_meta for value in state_dict.values()) and not next(model.parameters()).is_meta:
        raise CheckpointError('The checkpoint holds tensors without values (on the meta device).')
    check_finite(state_dict)
    state_dict.update({key: torch.tensor(0) for key in counters})


def check_finite(state_dict: dict[str, Tensor]) -> None:
    """Check that there is no NaN and no infinity in a state dict, and no negative variance.

    Raises:
        CheckpointError: Naming the first tensors with one.
    """
    broken = [key for key, value in state_dict.items() if value.is_floating_point() and not value.is_meta
              and not (value.isfinite().all() and (not key.endswith('running_var') or (value >= 0).all()))]
    if broken:
        raise CheckpointError(f'The checkpoint has NaN, infinite or impossible values in {some(broken)}. It is damaged, or '
                              'of a training that diverged; take an earlier one.')


def _empty_state_dict(*args, **kwargs) -> dict[str, Tensor]:
    """Keys and shapes of a backbone, without memory for it."""
    from .mobileone import MobileOne  # which imports this module

    with torch.device('meta'):
        return MobileOne(*args, **kwargs).state_dict()


def some(items, limit: int = 3) -> str:
    """The first few of many names, for a message."""
    items = sorted(items)
    return ', '.join(items[:limit]) + (f' and {len(items) - limit} more' if len(items) > limit else '')
