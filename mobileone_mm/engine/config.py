"""Config files, and what they say about their dataset."""
import os
import traceback
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..datasets.check import ROOT_VARIABLES, datasets
from ..datasets.classes import read_classes
from ..utils.errors import ConfigError, MissingFileError, MissingPackageError
from .overrides import override

# Modules that configs dumped by earlier runs import, and their present names.
_MOVED = {
    'mobileone_mm.ssd': 'mobileone_mm.tasks.detection',
    'mobileone_mm.deeplabv3': 'mobileone_mm.tasks.segmentation',
    'mobileone_mm.pretraining': 'mobileone_mm.tasks.pretraining',
}
_PIP_NAMES = {'mmdet': 'onedl-mmdetection', 'mmseg': 'onedl-mmsegmentation', 'mmpretrain': 'onedl-mmpretrain'}


def config_from_file(path: str | Path) -> Config:
    """Read a config file.

    Raises:
        MissingFileError: There is no such config.
        ConfigError: mmengine does not read files of this kind, or it imports a module of ours by a
            former name.
        MissingPackageError: It imports a module whose package is not installed.
    """
    if not os.path.isfile(path):
        raise MissingFileError(f'Config {str(path)!r} does not exist. The configs are below configs/.')
    if os.path.splitext(path)[1] not in ('.py', '.json', '.yaml', '.yml'):
        raise ConfigError(f'Config {str(path)!r} is neither a .py, .json nor .yaml file.')
    for name in ROOT_VARIABLES:
        if os.environ.get(name) == '':
            del os.environ[name]  # mmengine would use the empty value instead of the default
    try:
        return Config.fromfile(path)
    except FileNotFoundError as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals.get('__name__', '').startswith('mmengine.'):  # the config's own code
            raise
        raise MissingFileError(
            f'Config {str(path)!r} has a _base_ that is missing: {error.filename or error}.') from error
    except ImportError as error:
        _explain_import(path, error)
        raise


def _explain_import(path: str | Path, error: ImportError) -> None:
    """For an import that failed in a config, raise an error with the remedy, if there is one."""
    cause = error
    while cause is not None:  # mmengine itself only says which of custom_imports failed
        if isinstance(cause, MissingPackageError):
            raise MissingPackageError(str(cause)) from error
        name = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if name in _MOVED:
            raise ConfigError(f'Config {str(path)!r} imports {name}, which is now {_MOVED[name]}. Replace the one by '
                              'the other in its custom_imports.') from error
        if name in _PIP_NAMES:
            raise MissingPackageError(f'Config {str(path)!r} needs {name}, which is not installed. Install it: '
                                      f'pip install {_PIP_NAMES[name]}') from error
        cause = cause.__context__


def read_config(path: str | Path, options: dict | None = None) -> Config:
    """Read a config of a model, with ``--cfg-options``.

    Raises:
        MissingFileError: There is no such config.
        ConfigError: It cannot be read, or has no model.
    """
    cfg = config_from_file(path)
    override(cfg, options)
    if 'model' not in cfg:
        raise ConfigError(f'{str(path)!r} has no model.')
    return cfg


def dataset_meta(cfg: Config) -> dict:
    """``classes``, ``palette`` and so on of a config's test dataset; its files need not exist."""
    dataset = next(datasets(cfg.test_dataloader.dataset))
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        return dict(registry.get(dataset.type).METAINFO) | dict(dataset.get('metainfo') or {})


def class_names(cfg: Config, checkpoint: dict | None = None) -> list[str]:
    """Names of a model's classes: from its checkpoint, else from its config's test dataset."""
    saved = ((checkpoint or {}).get('meta') or {}).get('dataset_meta') or {}
    saved = {key.lower(): value for key, value in saved.items()}
    return read_classes(saved.get('classes') or dataset_meta(cfg)['classes'])
