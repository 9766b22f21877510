"""Files that appear complete or not at all, and their checksums."""
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import LocalBackend, register_backend


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place at ``path`` when the context ends without an error.

    It is written beside its place and moved there, so neither a full disk nor ``kill -9`` leaves half a file, and
    a file that was there before stays until its successor is complete. Its folder is created.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f'{str(path)!r} is a folder; name a file.')
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    try:
        with open(part, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else \
            hashlib.sha256(file.read()).hexdigest()  # Python 3.10


class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend, writing by :func:`atomic_file`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a path, creating its folder."""
        with atomic_file(filepath) as file:
            file.write(obj)


register_backend('atomic_local', AtomicLocalBackend, force=True)
