"""MobileOne for OpenMMLab: importing this package registers the backbone, and imports neither mmdet nor mmseg.

What it changes in other libraries is listed by :func:`mobileone_mm.compat.apply`, and switched off by the environment
variable ``MOBILEONE_MM_COMPAT=0``.
"""
from . import compat
from .arch import ARCHS
from .block import MobileOneBlock
from .checkpoint.expand import expand_state_dict
from .engine.calibrate import calibrate_norms
from .engine.hooks import (
    CalibrateNormsHook,
    CheckpointFitHook,
    ClassNamesFitHook,
    CocoFitHook,
    DivergenceHook,
    MasksFitHook,
    NumClassesFitHook,
    OwnCheckpointsHook,
    PreserveRandomStateHook,
    ResumeScheduleHook,
    SyncAveragedBuffersHook,
)
from .mobileone import MobileOne
from .near_identity import NearIdentityInit
from .reparameterize import reparameterize_model
from .utils.files import AtomicLocalBackend
from .version import __version__

__all__ = [
    'ARCHS',
    'AtomicLocalBackend',
    'CalibrateNormsHook',
    'CheckpointFitHook',
    'ClassNamesFitHook',
    'CocoFitHook',
    'DivergenceHook',
    'MasksFitHook',
    'MobileOne',
    'MobileOneBlock',
    'NearIdentityInit',
    'NumClassesFitHook',
    'OwnCheckpointsHook',
    'PreserveRandomStateHook',
    'ResumeScheduleHook',
    'SyncAveragedBuffersHook',
    '__version__',
    'calibrate_norms',
    'expand_state_dict',
    'reparameterize_model',
]

compat.apply()
