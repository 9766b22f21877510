"""Config files, and what they say of their data."""
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..datasets.check import ROOT_VARIABLES, datasets
from ..utils.errors import MissingPackageError


def config_from_file(path: str | Path) -> Config:
    """Read a config file.

    Raises:
        FileNotFoundError: There is no such config.
        MissingPackageError: It imports what needs a package that is not installed.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'Config {str(path)!r} does not exist. The configs are below configs/.')
    for name in ROOT_VARIABLES:
        if os.environ.get(name) == '':
            del os.environ[name]  # mmengine takes an empty variable for a missing one, and its default away
    try:
        return Config.fromfile(path)
    except ImportError as error:
        cause = error
        while cause is not None:  # mmengine itself only says which of custom_imports failed
            if isinstance(cause, MissingPackageError):
                raise cause from None
            cause = cause.__context__
        raise


def read_config(path: str | Path, options: dict | None = None) -> Config:
    """Read a config of a model, with ``--cfg-options``.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It has no model.
    """
    cfg = config_from_file(path)
    cfg.merge_from_dict(options or {})
    if 'model' not in cfg:
        raise ValueError(f'{str(path)!r} has no model.')
    return cfg


def dataset_meta(cfg: Config) -> dict:
    """``classes``, ``palette`` and the like of the data set that a config tests on, whether it is there or not."""
    dataset = next(datasets(cfg.test_dataloader.dataset))
    with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        return dict(registry.get(dataset.type).METAINFO) | dict(dataset.get('metainfo') or {})


def class_names(cfg: Config, checkpoint: dict | None = None) -> list[str]:
    """Names of a model's classes: of its checkpoint, else of the data set that its config tests on."""
    saved = ((checkpoint or {}).get('meta') or {}).get('dataset_meta') or {}
    saved = {key.lower(): value for key, value in saved.items()}
    return list(saved.get('classes') or dataset_meta(cfg)['classes'])
