"""Hooks for mmengine's Runner, one per module."""
from .averaged_buffers import SyncAveragedBuffersHook
from .calibrate_norms import CalibrateNormsHook
from .checkpoint_fit import CheckpointFitHook
from .divergence import DivergenceHook
from .num_classes_fit import NumClassesFitHook
from .own_checkpoints import OwnCheckpointsHook
from .random_state import PreserveRandomStateHook
from .resume_schedule import ResumeScheduleHook

__all__ = [
    'CalibrateNormsHook',
    'CheckpointFitHook',
    'DivergenceHook',
    'NumClassesFitHook',
    'OwnCheckpointsHook',
    'PreserveRandomStateHook',
    'ResumeScheduleHook',
    'SyncAveragedBuffersHook',
]
