"""Hooks for mmengine's Runner, one per module."""
from .averaged_buffers import SyncAveragedBuffersHook
from .calibrate_norms import CalibrateNormsHook
from .checkpoint_fit import CheckpointFitHook
from .num_classes_fit import NumClassesFitHook
from .random_state import PreserveRandomStateHook

__all__ = [
    'CalibrateNormsHook',
    'CheckpointFitHook',
    'NumClassesFitHook',
    'PreserveRandomStateHook',
    'SyncAveragedBuffersHook',
]
