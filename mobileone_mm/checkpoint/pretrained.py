"""Weights that a backbone starts from, by path or URL."""
import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from types import NoneType
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank, is_distributed
from mmengine.logging import print_log
from torch import Tensor

from ..utils.errors import CheckpointError, DiskError, MissingFileError
from .layouts import SE, get_state_dict
from .read import read_checkpoint

_DISK_IS_TO_BLAME = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT)
REMEDIES = ('Either download it by hand and point the config at the file '
            '(--cfg-options model.backbone.init_cfg.checkpoint=/path/to/file), '
            'or train from scratch (--cfg-options model.backbone.init_cfg=None).')


def load_pretrained(checkpoint: str, prefix: str | None = None, map_location: str = 'cpu', type: str = 'Pretrained',
                    drop_se: bool = False, trust: bool = False) -> dict[str, Tensor]:
    """Fetch the state dict that an ``init_cfg`` of type ``Pretrained`` names.

    Args:
        checkpoint: Path, or a URL, which is downloaded once and kept in torch hub's cache.
        prefix: Take only the keys below this prefix, e.g. ``'backbone.'``.
        map_location: As for ``torch.load``.
        type: The ``init_cfg``'s type, for the log.
        drop_se: Leave Squeeze-and-Excitation out, to start S4 without it from the weights of S4.
        trust: As for :func:`.read_checkpoint`.

    Raises:
        CheckpointError: There is no such file, the download failed, it is no readable checkpoint, or has no keys
            below ``prefix``; the message names the remedies.
    """
    print_log(f'{type}: load MobileOne from {checkpoint}', logger='current')
    path = download(checkpoint) if is_url(checkpoint) else checkpoint
    try:
        content = read_checkpoint(path, map_location, trust)
    except MissingFileError as error:
        raise CheckpointError(f'{error} {REMEDIES}') from error
    except CheckpointError as error:
        if is_url(checkpoint):
            raise CheckpointError(f"{error} This is the copy in torch hub's cache of {checkpoint}: delete it, and it "
                                  'is downloaded again.') from error
        raise
    state_dict = get_state_dict(content)
    if prefix is not None:
        prefix = prefix.rstrip('.') + '.'
        state_dict = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
        if not state_dict:
            raise CheckpointError(f'{checkpoint!r} has no keys below prefix={prefix!r}.')
    if drop_se:
        state_dict = {key: value for key, value in state_dict.items() if not SE.search(key)}
    return state_dict


def cached_path(url: str, folder: str | None = None) -> str:
    """Where torch's hub keeps the file of a URL: in its folder of checkpoints, by the last part of the URL's path."""
    folder = folder or os.path.join(torch.hub.get_dir(), 'checkpoints')
    return os.path.join(folder, os.path.basename(urlparse(url).path))


@contextmanager
def cache_errors(url: str, path: str) -> Iterator[None]:
    """Say that the file behind a URL could not be kept, as behind a home that is read-only.

    Raises:
        DiskError: Naming the folder, and the variable that names another one.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_IS_TO_BLAME:
            raise
        raise DiskError(f'Could not keep {url} in {os.path.dirname(path)!r}: {error.strerror}. Make that possible, or '
                        "set TORCH_HOME in the environment to a folder for torch hub's cache that can be written and "
                        'has room.') from error


def is_url(path: str) -> bool:
    """Whether it names something to download."""
    return path.startswith(('http://', 'https://'))


def download(url: str, remedies: str = REMEDIES) -> str:
    """Path of the file behind a URL: in torch hub's cache, where a file of that name is used as it is.

    One process of each machine downloads. What arrives is kept only if it can be read: a download that broke off leaves
    nothing. Several machines may share the folder: each writes to a file of its own, and moves it into place.

    Raises:
        CheckpointError: The download failed; the message ends with ``remedies``.
        DiskError: The cache cannot be written.
    """
    path = cached_path(url)
    error = None
    if _local_rank() == 0 and not os.path.isfile(path):
        stem, suffix = os.path.splitext(path)  # by which torch knows .safetensors
        part = f'{stem}.{uuid.uuid4().hex}.part{suffix}'
        try:
            with cache_errors(url, path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                torch.hub.download_url_to_file(url, part)
                read_checkpoint(part, 'cpu')
                os.replace(part, path)
        except Exception as caught:
            error = caught  # raised only after the barrier, where the other processes wait
        finally:
            if os.path.exists(part):
                os.unlink(part)
    barrier()
    if isinstance(error, DiskError) or not isinstance(error, (OSError, HTTPException, CheckpointError, NoneType)):
        raise error
    if not os.path.isfile(path):
        raise CheckpointError(f'Could not download the pretrained weights {url} '
                              f'({error or "see the first process of this machine"}). {remedies}') from error
    return path


def _local_rank() -> int:
    """This process's number on its machine, as mmengine's launchers read it.

    mmengine's ``get_local_rank`` needs a local process group, which mmengine itself never creates.
    """
    names = ('OMPI_COMM_WORLD_LOCAL_RANK', 'LOCAL_RANK')
    return next((int(os.environ[name]) for name in names if name in os.environ), get_rank()) if is_distributed() else 0
