"""mmengine's loading of checkpoints, made safe; for checkpoints without MobileOne nothing else changes."""
import os

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from ..checkpoint.layouts import find_prefixes, get_state_dict
from ..checkpoint.pretrained import cache_errors, cached_path
from ..checkpoint.read import (
    check_for_damage,
    explained_errors,
    globals_in_mmengine_checkpoints,
    load_safely,
    mmengine_globals,
)
from ..utils.errors import CheckpointError


def use_safe_loading() -> bool:
    """Make mmengine unpickle nothing that could run code, from wherever a checkpoint comes.

    These are private names of mmengine's, and replaced rather than its loaders, because this changes the least: finding
    and downloading a file, torch hub's cache, and the log stay mmengine's own.

    - ``load_url`` loads what comes by http(s), on both lines; it is ``torch.hub.load_state_dict_from_url``, which
      unpickles anything.
    - ``_safe_torch_load`` loads all else on the onedl line, and unpickles anything when safe loading fails.
    - Upstream calls ``torch.load``, which is safe, but refuses what mmengine itself saves (HistoryBuffer, numpy's
      scalars). There the loader of local files is replaced, unless another one was registered.

    Returns:
        Whether anything changed.
    """
    if mmengine_checkpoint.load_url is _load_url:
        return False
    # For what calls torch.load itself, such as mmdet's and mmseg's publish_model.py.
    torch.serialization.add_safe_globals(globals_in_mmengine_checkpoints())
    mmengine_checkpoint.load_url = _load_url
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):
        mmengine_checkpoint._safe_torch_load = _load_file
    elif CheckpointLoader._schemes.get('') is mmengine_checkpoint.load_from_local:
        CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)
    return True


def load_from_local(filename: str, map_location=None):
    """mmengine's function of this name, with :func:`.load_safely`. mmengine's log takes the backend from the name."""
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise FileNotFoundError(f'{filename} can not be found.')
    return _load_file(filename, map_location)


def _load_file(file, map_location=None, weights_only: bool | None = None):
    """Stands for ``_safe_torch_load(file, map_location=None, weights_only=None)``; ``file`` is a path or a buffer."""
    if weights_only is not None:
        return torch.load(file, map_location=map_location, weights_only=weights_only)
    checkpoint = load_safely(file, map_location)
    return _undamaged(checkpoint, file) if isinstance(file, (str, os.PathLike)) else checkpoint


def _load_url(url: str, model_dir: str | None = None, map_location=None, progress: bool = True,
              check_hash: bool = False, file_name: str | None = None, weights_only: bool | None = None):
    """Stands for ``torch.hub.load_state_dict_from_url``; None is torch's default, which is safe."""
    path = cached_path(file_name or url, model_dir)
    with mmengine_globals(), explained_errors(url), cache_errors(url, path):
        checkpoint = torch.hub.load_state_dict_from_url(
            url, model_dir, map_location, progress, check_hash, file_name, weights_only)
    return _undamaged(checkpoint, path)


def _undamaged(checkpoint, path: str | os.PathLike):
    """A checkpoint as it is; its file's checksums are compared if there is a MobileOne in it."""
    try:
        is_ours = bool(find_prefixes(get_state_dict(checkpoint)))
    except (CheckpointError, AttributeError, TypeError):  # no dict, or one of something else
        is_ours = False
    if is_ours:
        with explained_errors(path):
            check_for_damage(path)
    return checkpoint
