"""Checkpoints, read safely from files and URLs."""
import hashlib
import logging
import os
import pickle
import re
import zipfile
from http.client import HTTPException
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_local_rank
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

from ..utils.errors import CheckpointError
from .layouts import SE, get_state_dict

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
        checkpoint = download(checkpoint)
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
        state_dict = {key: value for key, value in state_dict.items() if not SE.search(key)}
    return state_dict


def download(url: str) -> str:
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
