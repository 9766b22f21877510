"""Exported files, run."""
import functools
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from ..utils.errors import DataError, ExportedFileError, MissingFileError
from .formats import FORMATS, format_of


class ExportedFile:
    """An exported file as a function of images.

    Args:
        path: A file of a format in ``mobileone_mm.deploy.formats.FORMATS``, as :func:`.export.export` writes it.
        threads: Number of threads; default: the runtime's choice.

    Attributes:
        meta: What the file says of itself: ``task``, ``classes``, ``input``, ``outputs``, ``shape`` (None where
            free), and others of some tasks and formats.

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
        self._run, self.meta = written.run(path, threads)

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Images as ``meta['input']`` says, (N, C, H, W), float32 from 0 to 255 -> the outputs by their names.

        Raises:
            DataError: The file does not take images of this size.
        """
        self.check_size(*image.shape[2:])
        return dict(zip(self.meta['outputs'], self._run(image), strict=True))

    def check_size(self, height: int, width: int) -> None:
        """Raise a DataError for a size that the file does not take."""
        expected = tuple(self.meta['shape'][2:])
        if None not in expected and expected != (height, width):
            raise DataError(f'The file takes images of {expected[0]}x{expected[1]}, got {height}x{width}. Resize them '
                            "(--shape, or the test pipeline's Resize), or export with another --shape.")
        if sizes := self.meta.get('sizes'):
            step, least, most = sizes['multiple_of'], sizes.get('least', 1), sizes.get('most', math.inf)
            if any(size % step or not least <= size <= most for size in (height, width)):
                raise DataError(f'The file takes heights and widths {describe_sizes(sizes)}, got {height}x{width}. '
                                "Resize images (--shape, or the test pipeline's Resize), or export with one size.")


def describe_sizes(sizes: dict) -> str:
    """The free sizes of a file, from its metadata."""
    parts = [f'from {sizes["least"]} to {sizes["most"]}'] if 'least' in sizes else []
    parts += [f'that are multiples of {sizes["multiple_of"]}'] if sizes['multiple_of'] > 1 else []
    return ' '.join(parts)


def open_exported(path: str | Path) -> ExportedFile:
    """An :class:`.ExportedFile`, the same one again as long as the file stays as it is.

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
