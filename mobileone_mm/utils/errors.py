"""All errors that tell a user what to do, and how tools end with them."""
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


class MobileOneError(Exception):
    """Base class of all errors whose message says what was got, what is allowed, and what to do."""


class CheckpointError(MobileOneError, ValueError):
    """A checkpoint cannot be had, cannot be read safely, or does not fit the model."""


class DataError(MobileOneError, ValueError):
    """A dataset that a config cannot be trained or tested on."""


class MissingDataError(MobileOneError, FileNotFoundError):
    """A dataset of a config is not where the config says."""


class DiskError(MobileOneError, OSError):
    """A file or folder cannot be written."""


class ExportedFileError(MobileOneError, ValueError):
    """A file that is no export of this package, or cannot be read."""


class MissingPackageError(MobileOneError, ImportError):
    """What was asked for needs a package that is not installed."""


class MissingOperatorError(MobileOneError, RuntimeError):
    """Something was used that is only a stand-in here: a compiled operator of mmcv, or a part of torchvision."""


def require(module: str, package: str | None = None) -> ModuleType:
    """Import an optional module.

    Args:
        module: Its name for import.
        package: Its name for pip, if another.

    Raises:
        MissingPackageError: Naming what to install.
    """
    try:
        return importlib.import_module(module)
    except MissingPackageError:  # of a module of ours, which says what to install
        raise
    except ImportError as error:
        package = package or module.partition('.')[0]
        raise MissingPackageError(f'This needs {package}, which does not import ({error}). Install it: '
                                  f'pip install {package}') from error


def some(items, limit: int = 3) -> str:
    """The first few of many names, for a message."""
    items = sorted(items)
    return ', '.join(items[:limit]) + (f' and {len(items) - limit} more' if len(items) > limit else '')


@contextmanager
def errors_in_one_line(*errors: type[Exception]) -> Iterator[None]:
    """End a tool with the message of such an error, or of Ctrl-C, instead of its trace; said once by several processes."""
    code = 1
    try:
        yield
        return
    except errors as error:
        message = f'Error: {error}'
    except KeyboardInterrupt as error:
        message, code = str(error) or 'Interrupted.', 128 + signal.SIGINT
    if os.environ.get('RANK', '0') == '0':
        print(message, file=sys.stderr)
    sys.exit(code)
