"""mmengine's loading of checkpoints, made safe."""
import os

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from ..checkpoint.layouts import get_state_dict
from ..checkpoint.read import allow_mmengine_globals, download, read_checkpoint


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
    return _load_local(download(filename), map_location)


def _load_file_or_buffer(file, map_location=None, weights_only=None) -> dict:
    if isinstance(file, (str, os.PathLike)):
        return _load_local(os.fspath(file), map_location)
    allow_mmengine_globals()
    file.seek(0)
    return torch.load(file, map_location=map_location)
