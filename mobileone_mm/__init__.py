"""MobileOne for OpenMMLab: importing this package registers the backbone, and imports neither mmdet nor mmseg."""
from .arch import ARCHS
from .block import MobileOneBlock, reparameterize_model
from .checkpoint import allow_mmengine_globals, use_safe_loading
from .expand import calibrate_norms, expand_state_dict
from .files import AtomicLocalBackend
from .hooks import (
    CalibrateNormsHook,
    CheckpointFitHook,
    NumClassesFitHook,
    PreserveRandomStateHook,
    SyncAveragedBuffersHook,
)
from .init import NearIdentityInit
from .mmcv_ops import provide_mmcv_ops
from .mobileone import MobileOne

__version__ = '0.1.0'
__all__ = [
    'ARCHS', 'AtomicLocalBackend', 'CalibrateNormsHook', 'CheckpointFitHook', 'MobileOne', 'MobileOneBlock',
    'NearIdentityInit', 'NumClassesFitHook', 'PreserveRandomStateHook', 'SyncAveragedBuffersHook', 'calibrate_norms',
    'expand_state_dict', 'reparameterize_model',
]

provide_mmcv_ops()
allow_mmengine_globals()
use_safe_loading()
