"""The mm libraries come from one of two lines, which the user chooses; without one, this says how."""
import importlib.util
import sys

from ..utils.errors import MissingPackageError, wants_tracebacks


def missing_libraries() -> list[str]:
    """Which of the libraries that this package cannot do without are not installed."""
    return [name for name in ('mmengine', 'mmcv') if importlib.util.find_spec(name) is None]


def refuse_import(missing: list[str]) -> None:
    """Say what to install; a script that ends by it prints one line instead of a traceback.

    Raises:
        MissingPackageError: Always.
    """
    if not wants_tracebacks():
        sys.excepthook = _print_in_one_line
    raise MissingPackageError(
        f"There is no {' and no '.join(missing)} here: mobileone_mm leaves the choice of the mm libraries to you. "
        "Install the maintained line, pip install 'mobileone_mm[onedl]', or, into an environment without it, the "
        "upstream one, pip install 'mobileone_mm[openmmlab]'.")


def _print_in_one_line(kind, error, traceback):
    if isinstance(error, MissingPackageError):
        print(f'Error: {error}', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)
