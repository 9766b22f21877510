"""What the configs below ``configs/pretraining`` import: mmpretrain, and AutoAugment with a strength.

mmpretrain imports torchvision, of which these configs use nothing; where torchvision is not installed, mmpretrain is
imported without it.
"""
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..compat.stand_in import StandInFinder
from ..utils.errors import MissingPackageError


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Lets ``import torchvision`` succeed meanwhile where it would fail.

    Only meanwhile: other libraries look whether there is a torchvision, and do without.
    """
    if importlib.util.find_spec('torchvision') is not None:
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


with _without_torchvision():
    try:
        from mmpretrain.datasets.transforms.auto_augment import AUTOAUG_POLICIES, AutoAugment
        from mmpretrain.registry import TRANSFORMS
        from mmpretrain.utils import register_all_modules
    except ImportError as error:
        raise MissingPackageError(f'This needs mmpretrain ({error}). Install it: pip install onedl-mmpretrain, or beside '
                                  'upstream mmengine and mmcv: pip install mmpretrain.') from error
    register_all_modules(init_default_scope=False)


@TRANSFORMS.register_module()
class ProgressiveAutoAugment(AutoAugment):
    """AutoAugment with a strength, for progressive learning.

    The paper lets the strength grow with the picture's size; how it scales AutoAugment is not known. Here magnitudes are
    scaled between none and the policy's own, and, of operations without a magnitude (Equalize, Invert, AutoContrast), the
    probability. A strength of 1 is AutoAugment itself.

    Args:
        policies: As for mmpretrain's ``AutoAugment``: ``'imagenet'``, or sub-policies, each a list of operations.
        strength: From 0 to 1.
        hparams: As for ``AutoAugment``.

    Raises:
        ValueError: ``strength`` is not from 0 to 1, or ``policies`` is not known.
    """

    def __init__(self, policies: str | list[list[dict]] = 'imagenet', strength: float = 1.0, hparams: dict | None = None):
        if not isinstance(strength, (int, float)) or not 0 <= strength <= 1:
            raise ValueError(f'strength must be a number from 0 to 1, got {strength!r}.')
        if isinstance(policies, str):
            if policies not in AUTOAUG_POLICIES:
                raise ValueError(f'policies must be one of {sorted(AUTOAUG_POLICIES)}, or a list, got {policies!r}.')
            policies = AUTOAUG_POLICIES[policies]
        super().__init__([[_scaled(operation, strength) for operation in sub_policy] for sub_policy in policies],
                         hparams or dict(pad_val=128))
        self.strength = strength


def _scaled(operation: dict, strength: float) -> dict:
    """One operation of a policy, weaker; at strength 0 it leaves the picture as it is."""
    if 'bits' in operation:  # of a channel's 8
        return operation | {'bits': round(8 - strength * (8 - operation['bits']))}
    for key in ('angle', 'magnitude'):
        if key in operation:
            return operation | {key: strength * operation[key]}
    if 'thr' in operation:  # Solarize: pixels from here on are inverted; from 256 on, none
        return operation | {'thr': 256 - strength * (256 - operation['thr'])}
    return operation | {'prob': strength * operation.get('prob', 0.5)}
