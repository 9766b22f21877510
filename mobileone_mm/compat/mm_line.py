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
    if missing == ['mmcv']:
        remedy = 'Install it from the line of the mmengine that is here: onedl-mmcv beside onedl-mmengine, else mmcv.'
    else:
        remedy = ("The mm libraries come from one of two lines. Install the maintained one: pip install "
                  "'mobileone_mm[onedl]'; or OpenMMLab's own releases: pip install 'mobileone_mm[openmmlab]'.")
    error = MissingPackageError(f"mobileone_mm needs {' and '.join(missing)}, not installed here. {remedy}")
    if not wants_tracebacks():
        _print_in_one_line(error)
    raise error


def _print_in_one_line(error: Exception) -> None:
    """Where nothing catches this very error; any other is left to the hook that was there before."""
    before = sys.excepthook

    def hook(kind, raised, traceback):
        if raised is error:
            print(f'Error: {error}', file=sys.stderr)
        else:
            before(kind, raised, traceback)

    sys.excepthook = hook
