"""Files that appear complete or not at all, and their checksums."""
import hashlib
import importlib.util
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import LocalBackend, register_backend

from .errors import DiskError


class _Part(io.FileIO):
    """A file that remembers why a write failed: ``torch.save``, for one, ends with another error then."""

    failure: OSError | None = None

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Say that ``path`` could not be written. For use around nothing but the writing.

    Raises:
        DiskError: Naming the path and the system's reason.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: str | Path, error: OSError) -> DiskError:
    return DiskError(f'Could not write {str(path)!r}: {error.strerror or error}. Make that possible, or name '
                     'another path.')


def make_folder(path: str | Path) -> Path:
    """A folder, created with those above it if it is not there.

    Raises:
        DiskError: It cannot be created.
    """
    with disk_errors(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place at ``path`` when the context ends without an error.

    It is written beside its place and moved there, so neither a full disk nor ``kill -9`` leaves half a file, and
    a file that was there before stays until its successor is complete. Its folder is created.

    Raises:
        DiskError: It cannot be written; nothing is left of it.
    """
    path = Path(path)
    if path.is_dir():
        raise DiskError(f'{str(path)!r} is a folder; name a file.')
    make_folder(path.parent)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')  # another process may write the same file
    with disk_errors(path):
        raw = _Part(part, 'wb')
    try:
        with io.BufferedWriter(raw) as file:
            yield file
            with disk_errors(path):
                file.flush()
                os.fsync(file.fileno())
        with disk_errors(path):
            os.replace(part, path)
    except Exception as error:
        if raw.failure is None or isinstance(error, DiskError):
            raise
        raise _not_written(path, raw.failure) from error
    finally:
        part.unlink(missing_ok=True)


def installed_file(package: str, path: str) -> str | None:
    """A file that an mm package installs below its folder ``.mim``, or None if there is no such package or file.

    Args:
        package: Name for import, such as ``mmdet``.
        path: Below that folder, such as ``tools/test.py``.
    """
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or ()) if spec else ()  # a plain folder that lies here has them too
    files = (os.path.join(folder, '.mim', path) for folder in folders)
    return next(filter(os.path.isfile, files), None)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else \
            hashlib.sha256(file.read()).hexdigest()  # Python 3.10


class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend, writing by :func:`.atomic_file`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a path, creating its folder."""
        with atomic_file(filepath) as file:
            file.write(obj)


register_backend('atomic_local', AtomicLocalBackend, force=True)
