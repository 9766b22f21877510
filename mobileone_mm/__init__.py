"""MobileOne for OpenMMLab: importing this package registers the backbone, and imports neither mmdet nor mmseg."""
from .arch import ARCHS
from .block import MobileOneBlock
from .checkpoint.expand import expand_state_dict
from .checkpoint.read import allow_mmengine_globals
from .compat.loading import use_safe_loading
from .compat.mmcv_ops import provide_mmcv_ops
from .engine.calibrate import calibrate_norms
from .engine.hooks import (
    CalibrateNormsHook,
    CheckpointFitHook,
    NumClassesFitHook,
    PreserveRandomStateHook,
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
    'MobileOne',
    'MobileOneBlock',
    'NearIdentityInit',
    'NumClassesFitHook',
    'PreserveRandomStateHook',
    'SyncAveragedBuffersHook',
    '__version__',
    'calibrate_norms',
    'expand_state_dict',
    'reparameterize_model',
]

provide_mmcv_ops()
allow_mmengine_globals()
use_safe_loading()
