"""Hooks for mmengine's Runner, a module each."""
from .averaged_buffers import SyncAveragedBuffersHook
from .calibrate_norms import CalibrateNormsHook
from .checkpoint_fit import CheckpointFitHook
from .class_names_fit import ClassNamesFitHook
from .coco_fit import CocoFitHook
from .masks_fit import MasksFitHook
from .num_classes_fit import NumClassesFitHook
from .random_state import PreserveRandomStateHook

__all__ = [
    'CalibrateNormsHook',
    'CheckpointFitHook',
    'ClassNamesFitHook',
    'CocoFitHook',
    'MasksFitHook',
    'NumClassesFitHook',
    'PreserveRandomStateHook',
    'SyncAveragedBuffersHook',
]
