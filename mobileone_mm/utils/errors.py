"""All errors that tell a user what to do, and how tools end with them.

Each derives from :class:`.MobileOneError` and from the built-in error that it would be without us.
"""
import codecs
import importlib
import locale
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from .processes import reports_error


class MobileOneError(Exception):
    """Base class of all errors whose message says what was got, what is allowed, and what to do."""


class ArgumentError(MobileOneError, ValueError):
    """An argument or option that is not allowed, or not together with the others."""


class ConfigError(MobileOneError, ValueError):
    """A config that cannot be read, or that does not allow what was asked for."""


class MissingFileError(MobileOneError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class CheckpointError(MobileOneError, ValueError):
    """A checkpoint cannot be had, cannot be read safely, or does not fit the model."""


class DataError(MobileOneError, ValueError):
    """A dataset that a config cannot be trained or tested on."""


class MissingDataError(MissingFileError):
    """A dataset of a config is not where the config says."""


class DivergenceError(MobileOneError, FloatingPointError):
    """A training whose loss or weights are no numbers any more."""


class DiskError(MobileOneError, OSError):
    """A file or folder cannot be written, or would be overwritten."""


class ExportedFileError(MobileOneError, ValueError):
    """A file that is no export of this package, or cannot be read."""


class ModelCardError(MobileOneError, ValueError):
    """A file from which the model card is made, or the card itself, is not what it should be."""


class MissingPackageError(MobileOneError, ImportError):
    """What was asked for needs a package that is not installed."""


class UnloadablePackageError(MissingPackageError):
    """It is installed, but this system does not load it: to install it again would not help."""


class WorkerError(MobileOneError, RuntimeError):
    """What was given to a process of its own failed there, or ended that process."""


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
        message = f'This needs {package}, which does not import ({error}). '
        if 'executable stack' in str(error):  # of MNN 3.6.1
            raise UnloadablePackageError(
                message + 'From glibc 2.41 on, as in Debian 13, such a library loads only with '
                'GLIBC_TUNABLES=glibc.rtld.execstack=2 in the environment: set it.') from error
        raise MissingPackageError(f'{message}Install it: pip install {package}') from error


def some(items, limit: int = 3) -> str:
    """The first few of many names, for a message."""
    items = sorted(items)
    return ', '.join(items[:limit]) + (f' and {len(items) - limit} more' if len(items) > limit else '')


def print_warning(message: str) -> None:
    """Say something before a run has its log; of several processes one prints."""
    if reports_error():
        print(f'Warning: {message}', file=sys.stderr, flush=True)


def wants_tracebacks() -> bool:
    """Whether the environment variable ``MOBILEONE_MM_TRACEBACK`` asks for tracebacks instead of single lines."""
    return os.environ.get('MOBILEONE_MM_TRACEBACK', '0') not in ('', '0')


def _speaks_utf8() -> bool:
    return codecs.lookup(locale.getpreferredencoding(False)).name == 'utf-8'


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End a tool with the message of a :class:`.MobileOneError`, or of Ctrl-C, instead of its traceback.

    In a locale that is not UTF-8, a UnicodeError ends it in one line as well. All other errors keep their traceback;
    with the environment variable ``MOBILEONE_MM_TRACEBACK=1``, ours do too. Of several processes one prints (see
    :func:`.reports_error`).
    """
    try:
        yield
        return
    except (MobileOneError, KeyboardInterrupt, UnicodeError) as error:
        if wants_tracebacks() or (isinstance(error, UnicodeError) and _speaks_utf8()):
            raise
        if isinstance(error, KeyboardInterrupt):
            message, code = str(error) or 'Interrupted.', 128 + signal.SIGINT
        elif isinstance(error, UnicodeError):  # pycocotools reads JSON so, and file names are encoded so
            message, code = (f'Error: Text that is not ASCII met the encoding of this locale: {error}. Let Python use '
                             'UTF-8 everywhere: set PYTHONUTF8=1 in the environment.'), 1
        else:
            message, code = f'Error: {error}', 1
    if reports_error():
        print(message, file=sys.stderr, flush=True)
    sys.exit(code)
