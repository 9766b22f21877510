"""A stand-in for torchvision while mmpretrain is imported."""
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .stand_in import StandInFinder
from .switch import is_on


@contextmanager
def importable_torchvision() -> Iterator[None]:
    """Let ``import torchvision`` succeed in this context where torchvision is not installed.

    mmpretrain imports torchvision at module level, for transforms that our configs do not use; what takes them raises
    :class:`.MissingOperatorError`. The stand-in is removed when the context ends, because other libraries ask whether
    torchvision is installed, and do without it. ``MOBILEONE_MM_COMPAT=0`` switches it off.
    """
    if not is_on() or importlib.util.find_spec('torchvision') is not None:
        yield
        return
    finder = StandInFinder('torchvision', 'needs torchvision. Install the one that pytorch.org names for your torch.')
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
            del sys.modules[name]
