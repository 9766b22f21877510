"""MobileOne for OpenMMLab: importing this package registers the backbone, and imports neither mmdet nor mmseg."""
from .arch import ARCHS
from .block import MobileOneBlock, reparameterize_model
from .checkpoint import allow_mmengine_globals, use_safe_loading
from .init import NearIdentityInit
from .mmcv_ops import provide_mmcv_ops
from .mobileone import MobileOne
from .runtime import AtomicLocalBackend, PreserveRandomStateHook

__version__ = '0.1.0'
__all__ = ['ARCHS', 'AtomicLocalBackend', 'MobileOne', 'MobileOneBlock', 'NearIdentityInit', 'PreserveRandomStateHook',
           'reparameterize_model']

provide_mmcv_ops()
allow_mmengine_globals()
use_safe_loading()
