"""Hooks for mmengine's Runner, one per module."""
from .averaged_buffers import SyncAveragedBuffersHook
from .calibrate_norms import CalibrateNormsHook
from .checkpoint_fit import CheckpointFitHook
from .class_names_fit import ClassNamesFitHook
from .coco_fit import CocoFitHook
from .divergence import DivergenceHook
from .masks_fit import MasksFitHook
from .num_classes_fit import NumClassesFitHook
from .own_checkpoints import OwnCheckpointsHook
from .random_state import PreserveRandomStateHook
from .resume_schedule import ResumeScheduleHook

__all__ = [
    'CalibrateNormsHook',
    'CheckpointFitHook',
    'ClassNamesFitHook',
    'CocoFitHook',
    'DivergenceHook',
    'MasksFitHook',
    'NumClassesFitHook',
    'OwnCheckpointsHook',
    'PreserveRandomStateHook',
    'ResumeScheduleHook',
    'SyncAveragedBuffersHook',
]
