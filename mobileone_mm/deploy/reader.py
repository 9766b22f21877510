"""Exported files, run."""
import functools
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from ..utils.errors import ExportedFileError, MissingFileError
from .formats import FORMATS, format_of
from .formats.base import not_ours


class ExportedFile:
    """An exported file as a function of images.

    Args:
        path: A file of a format in :data:`.formats.FORMATS`, as :func:`.export.export` writes it.
        threads: Number of threads; default: the runtime's choice.

    Attributes:
        meta: What the file says of itself: ``task``, ``classes``, ``input``, ``outputs``, ``shape`` (None where
            free).

    Raises:
        MissingFileError: There is no such file.
        ExportedFileError: It cannot be read, or says nothing of itself.
        MissingPackageError: Its runtime is not installed.
    """

    def __init__(self, path: str | Path, threads: int | None = None):
        path = Path(path)
        written = format_of(path.suffix)
        if written is None or written.run is None:
            allowed = ', '.join(each.suffix for each in FORMATS.values() if each.run)
            raise ExportedFileError(f'Cannot run {str(path)!r}: allowed are files that end in {allowed}.')
        for file in written.files(path):
            if not file.is_file():
                raise MissingFileError(f'There is no file {str(file)!r}.')
        self._run, meta = written.run(path, threads)
        if not meta:
            raise not_ours(path, 'it has no metadata of ours')
        self.meta = json.loads(meta)

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Images as ``meta['input']`` says, (N, C, H, W), float32 from 0 to 255 -> the outputs by their names."""
        return dict(zip(self.meta['outputs'], self._run(image), strict=True))


def open_exported(path: str | Path) -> ExportedFile:
    """An :class:`ExportedFile`, the same one again as long as the file stays as it is.

    A config takes the metadata of a file before its model is built of it, and opening compiles the network.
    """
    state = os.stat(path) if os.path.isfile(path) else None
    return _open(os.path.abspath(path), state and (state.st_mtime_ns, state.st_size))


@functools.lru_cache(maxsize=1)
def _open(path: str, state: tuple[int, int] | None) -> ExportedFile:
    return ExportedFile(path)


def is_exported(path: str | Path) -> bool:
    """Whether a path names an exported file: by its end, where that is not a checkpoint's too."""
    path = Path(path)
    if path.suffix == '.pt':
        return zipfile.is_zipfile(path) and any(
            name.endswith('/constants.pkl') for name in zipfile.ZipFile(path).namelist())
    written = format_of(path.suffix)
    return written is not None and written.run is not None
