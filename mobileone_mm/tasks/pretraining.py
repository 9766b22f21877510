"""What the configs below ``configs/pretraining`` import: mmpretrain, and AutoAugment with a strength.

mmpretrain imports torchvision, of which these configs use nothing; where torchvision is not installed, a stand-in
takes its place during that import.
"""
from ..compat.torchvision import importable_torchvision
from ..utils.errors import ArgumentError, MissingPackageError

with importable_torchvision():
    try:
        from mmpretrain.datasets.transforms.auto_augment import AUTOAUG_POLICIES, AutoAugment
        from mmpretrain.registry import TRANSFORMS
        from mmpretrain.utils import register_all_modules
    except ImportError as error:
        if error.name == 'torchvision':
            raise MissingPackageError('mmpretrain needs torchvision, which is not installed, and its stand-in is '
                                      'switched off by MOBILEONE_MM_COMPAT=0: unset it, or install torchvision.'
                                      ) from error
        raise MissingPackageError(
            f'This needs mmpretrain ({error}). Install it: pip install onedl-mmpretrain, or, with upstream mmengine '
            'and mmcv: pip install mmpretrain.') from error
    register_all_modules(init_default_scope=False)


@TRANSFORMS.register_module()
class ProgressiveAutoAugment(AutoAugment):
    """AutoAugment with a strength, for progressive learning.

    The paper increases the strength with the image's size, but does not say how it scales AutoAugment. Here each
    magnitude is scaled between no change and the policy's value; for operations without a magnitude (Equalize,
    Invert, AutoContrast) the probability is scaled. A strength of 1 is AutoAugment itself.

    Args:
        policies: As for mmpretrain's ``AutoAugment``: ``'imagenet'``, or sub-policies, each a list of operations.
        strength: From 0 to 1.
        hparams: As for ``AutoAugment``.

    Raises:
        ArgumentError: ``strength`` is not from 0 to 1, or ``policies`` is not known.
    """

    def __init__(self, policies: str | list[list[dict]] = 'imagenet', strength: float = 1.0,
                 hparams: dict | None = None):
        if not isinstance(strength, (int, float)) or not 0 <= strength <= 1:
            raise ArgumentError(f'strength must be a number from 0 to 1, got {strength!r}.')
        if isinstance(policies, str):
            if policies not in AUTOAUG_POLICIES:
                raise ArgumentError(f'policies must be one of {sorted(AUTOAUG_POLICIES)}, or a list, got {policies!r}.')
            policies = AUTOAUG_POLICIES[policies]
        super().__init__([[_scaled(operation, strength) for operation in sub_policy] for sub_policy in policies],
                         hparams or dict(pad_val=128))
        self.strength = strength


def _scaled(operation: dict, strength: float) -> dict:
    """One operation of a policy, weaker; at strength 0 it leaves the image as it is."""
    if 'bits' in operation:  # of a channel's 8
        return operation | {'bits': round(8 - strength * (8 - operation['bits']))}
    for key in ('angle', 'magnitude'):
        if key in operation:
            return operation | {key: strength * operation[key]}
    if 'thr' in operation:  # Solarize: pixels from here on are inverted; from 256 on, none
        return operation | {'thr': 256 - strength * (256 - operation['thr'])}
    return operation | {'prob': strength * operation.get('prob', 0.5)}
