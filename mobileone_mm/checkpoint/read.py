"""Checkpoints, read from files without running code."""
import errno
import logging
import os
import pickle
import re
import sys
import threading
import traceback
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

from ..utils.errors import CheckpointError, MissingFileError


def globals_in_mmengine_checkpoints() -> list:
    """What mmengine's checkpoints hold apart from tensors: its log history, and numpy's scalars and arrays.

    Nothing of it runs code. These are the names that stand in such files, private ones too: numpy's were moved from
    ``numpy.core`` to ``numpy._core`` with numpy 2.
    """
    multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray
    functions = [(getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
                 for name in ('scalar', '_reconstruct') for core in ('core', '_core')]
    dtypes = {type(np.dtype(name)) for name in ('bool', 'int32', 'int64', 'uint8', 'uint32', 'float32', 'float64')}
    return [HistoryBuffer, (_history_buffer_method, 'builtins.getattr'), *functions, np.ndarray, np.dtype, *dtypes,
            slice]


def _history_buffer_method(owner: type, name: str):
    """Stands in for ``getattr``, with which a pickled HistoryBuffer names its own methods, and which could do more."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise pickle.UnpicklingError(f'Unsupported global: getattr of {owner!r}, {name!r}')
    return getattr(HistoryBuffer, name)


# torch keeps its list of safe globals for the whole process: one load must not end what another one relies on.
_LOADING = threading.RLock()


@contextmanager
def mmengine_globals() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read mmengine's checkpoints in this context.

    Loads in several threads wait for each other. Loads elsewhere, by other code in other threads, see torch's list with
    these entries meanwhile; what others put on it stays there.
    """
    with _LOADING:
        known = torch.serialization.get_safe_globals()
        missing = [entry for entry in globals_in_mmengine_checkpoints() if entry not in known]
        with torch.serialization.safe_globals(missing):
            yield


@contextmanager
def explained_errors(name: str | os.PathLike) -> Iterator[None]:
    """Turn what ``torch.load`` raises for a file that is refused, or damaged, into a :class:`.CheckpointError`.

    Args:
        name: The file, for the message.
    """
    name = os.fspath(name)
    try:
        yield
    except pickle.UnpicklingError as error:
        refused = re.search(r'Unsupported (?:global|class|operand)[^\n]*?([\w.]+\.\w+)|GLOBAL ([\w.]+)', str(error))
        if refused:
            raise CheckpointError(
                f'{name!r} holds more than tensors ({refused[1] or refused[2]}), which could run code when loaded, and '
                'was refused. Only if you trust where it comes from: set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the '
                'environment, or rewrite it once with --trust: tools/convert_checkpoint.py for a backbone, '
                'tools/reparameterize.py for a whole model.') from error
        raise CheckpointError(f'{name!r} is not a PyTorch checkpoint, or is damaged. Fetch it again.') from error
    # The file is not to blame for the disk, the network, the memory, or a class that is not installed.
    except (HTTPException, MemoryError, torch.cuda.OutOfMemoryError, ImportError, CheckpointError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        # torch: a checkpoint of another device, or a map_location that it does not know
        if re.search('Attempting to deserialize|restore data location|Invalid device string', str(error)):
            raise
        if _is_of_others(error):  # of a map_location that is the user's function
            raise
        # EINVAL is the exception: by the wrong numbers in a damaged archive, torch seeks before its beginning.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise CheckpointError(
            f'{name!r} is not a PyTorch checkpoint, or is damaged ({error}). Fetch it again.') from error


def _is_of_others(error: Exception) -> bool:
    names = {frame.f_globals.get('__name__', '').partition('.')[0]
             for frame, _ in traceback.walk_tb(error.__traceback__)}
    return bool(names - {'torch', 'numpy', 'mmengine', 'mobileone_mm'} - sys.stdlib_module_names)


def load_safely(file: str | os.PathLike | BinaryIO, map_location=None, trust: bool = False):
    """``torch.load``, which reads mmengine's checkpoints, and unpickles nothing that could run code.

    Args:
        file: A path, or a file that is open for reading.
        map_location: As for ``torch.load``.
        trust: As for :func:`.read_checkpoint`.

    Raises:
        CheckpointError: It is no readable checkpoint, or needs more than safe unpickling.
    """
    name = file if isinstance(file, (str, os.PathLike)) else getattr(file, 'name', 'the checkpoint')
    with mmengine_globals(), explained_errors(str(name)):
        # No explicit weights_only: torch's default is True, and its environment variable keeps working.
        return torch.load(file, map_location=map_location, **(dict(weights_only=False) if trust else {}))


def check_for_damage(filename: str | os.PathLike) -> None:
    """Compare the checksums in a checkpoint's file, which torch itself does not; warn where there are none.

    Raises:
        RuntimeError: A checksum is wrong. :func:`.explained_errors` makes a :class:`.CheckpointError` of it.
    """
    if not zipfile.is_zipfile(filename):
        kind = 'safetensors' if os.fspath(filename).endswith('.safetensors') else 'the format before torch 1.6'
        print_log(f'{filename} is in {kind}, which has no checksums: damage may go unseen. Saved again with '
                  'torch.save, it would have them.', logger='current', level=logging.WARNING)
        return
    with zipfile.ZipFile(filename) as archive:
        if damaged := archive.testzip():
            raise RuntimeError(f'wrong checksum of {damaged}')


def read_checkpoint(filename: str, map_location: str | torch.device | None = None, trust: bool = False) -> dict:
    """Read a checkpoint from a local file, unpickling nothing that could run code.

    Args:
        filename: Path of the file.
        map_location: As for ``torch.load``.
        trust: Unpickle anything, which may run code from the file. torch's environment variable
            ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1`` does the same for all tools.

    Raises:
        MissingFileError: There is no such file.
        CheckpointError: It is no readable checkpoint, or needs more than safe unpickling.
    """
    filename = os.path.expanduser(filename)
    if not os.path.isfile(filename):
        raise MissingFileError(f'Checkpoint {filename!r} does not exist. Check the path.')
    if not trust:
        with explained_errors(filename):
            check_for_damage(filename)
    checkpoint = load_safely(filename, map_location, trust)
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{filename!r} holds a {type(checkpoint).__name__}, expected a state dict or a '
                              "checkpoint with the key 'state_dict'.")
    return checkpoint
