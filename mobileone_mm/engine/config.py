"""Config files, and what they say about their dataset."""
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS

from ..datasets.check import ROOT_VARIABLES, datasets
from ..datasets.classes import read_classes
from ..utils.errors import ConfigError, MissingFileError
from ..utils.files import installed_file
from ..utils.types import resolve_type
from .imports import explain_import
from .overrides import override


def config_from_file(path: str | Path) -> Config:
    """Read a config file.

    Raises:
        MissingFileError: There is no such config.
        ConfigError: mmengine does not read files of this kind, it is not in UTF-8, or it imports a module of ours by a
            former name.
        MissingPackageError: It imports a module whose package is not installed.
    """
    if not os.path.isfile(path):
        raise MissingFileError(f'Config {str(path)!r} does not exist. Ours are below {_folder_of_configs()}.')
    if os.path.splitext(path)[1] not in ('.py', '.json', '.yaml', '.yml'):
        raise ConfigError(f'Config {str(path)!r} is neither a .py, .json nor .yaml file.')
    try:
        with _no_empty_roots():
            return _without_modules(Config.fromfile(path))
    except FileNotFoundError as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals.get('__name__', '').startswith('mmengine.'):  # the config's own code
            raise
        raise MissingFileError(
            f'Config {str(path)!r} has a _base_ that is missing: {error.filename or error}.') from error
    except (UnicodeDecodeError, SyntaxError) as error:
        _explain_encoding(error)
        raise
    except ImportError as error:
        explain_import(f'Config {str(path)!r}', error)
        raise


def _folder_of_configs() -> str:
    """``configs`` in the repository, and what a wheel has instead; the shorter way to it."""
    index = installed_file('mobileone_mm', 'model-index.yml')
    folder = os.path.join(os.path.dirname(index), 'configs') if index else 'configs'
    return 'configs' if os.path.realpath(folder) == os.path.realpath('configs') else folder


def _explain_encoding(error: UnicodeDecodeError | SyntaxError) -> None:
    """Say which config, this one or a ``_base_``, mmengine could not decode; nothing of files that its code reads."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)
              if frame.f_globals.get('__name__') not in ('ast', 'codecs', 'encodings.utf_8')]
    if not frames[-1].f_globals.get('__name__', '').startswith('mmengine.config'):
        return
    file = next((frame.f_locals['filename'] for frame in reversed(frames) if frame.f_locals.get('filename')), None)
    if isinstance(error, UnicodeDecodeError):
        raise ConfigError(f'Config {str(file)!r} is not in UTF-8: {error}. Save it as UTF-8.') from error
    if 'U+FEFF' in str(error):
        raise ConfigError(f'Config {str(file)!r} begins with a byte order mark (BOM). Save it as UTF-8 without '
                          'one.') from error


@contextmanager
def _no_empty_roots() -> Iterator[None]:
    """mmengine would use the empty value of a variable such as COCO_ROOT instead of the config's default."""
    empty = [name for name in ROOT_VARIABLES if os.environ.get(name) == '']
    for name in empty:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(dict.fromkeys(empty, ''))


def _without_modules(cfg: Config) -> Config:
    """A pure Python config keeps what it imports beside its settings, and ``import os`` makes it impossible to copy."""
    for name in [name for name, value in cfg.items() if isinstance(value, ModuleType)]:
        cfg.pop(name)
    _import_all(dict(cfg.items()))
    return cfg


def _import_all(value: Any) -> None:
    """Import what a pure Python config names: mmengine does so when something is read, and then it would be late."""
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            _import_all(item)


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
    """``classes``, ``palette`` and so on of a config's test dataset; its files need not exist.

    Without a test dataset they are those of the validation or the training dataset, and without any there are none.
    """
    dataset = any_dataset(cfg)
    if dataset is None:
        return {}
    return _own_meta(cfg, dataset) | dict(dataset.get('metainfo') or {})


def any_dataset(cfg: Config) -> dict | None:
    """A config's first test dataset, without wrappers; else its validation or training dataset, or None."""
    loaders = (cfg.get(f'{split}_dataloader') or {} for split in ('test', 'val', 'train'))
    return next((dataset for loader in loaders if 'dataset' in loader for dataset in datasets(loader['dataset'])), None)


def _own_meta(cfg: Config, dataset: dict) -> dict:
    """What a dataset's class says of itself."""
    return dict(getattr(resolve_type(dataset, DATASETS, cfg.get('default_scope')), 'METAINFO', {}))


def _saved_meta(checkpoint: dict | None) -> dict:
    saved = ((checkpoint or {}).get('meta') or {}).get('dataset_meta') or {}
    return {key.lower(): value for key, value in saved.items()}


def class_names(cfg: Config, checkpoint: dict | None = None) -> list[str]:
    """Names of a model's classes: from its checkpoint, else from its config's test dataset.

    Raises:
        ConfigError: Neither has any.
        DataError: They are a text and not a file.
    """
    classes = _saved_meta(checkpoint).get('classes') or dataset_meta(cfg).get('classes')
    if not classes:
        raise ConfigError(f'The names of the classes are neither in the checkpoint (meta.dataset_meta) nor in a '
                          f'dataset of {cfg.filename!r}. Write metainfo=dict(classes=(...)) into '
                          'test_dataloader.dataset.')
    return read_classes(classes)


def class_colours(cfg: Config, classes: Sequence[str], checkpoint: dict | None = None) -> list[tuple[int, int, int]]:
    """A colour for each class, in RGB: that of its name in the checkpoint, the config or the dataset's class.

    Where one of them is without, all get random colours, always the same, which are those of mmdet.
    """
    dataset, known = any_dataset(cfg), {}
    for meta in (_own_meta(cfg, dataset) if dataset else {}, dataset_meta(cfg), _saved_meta(checkpoint)):
        names, colours = meta.get('classes') or (), meta.get('palette')
        if names and isinstance(colours, (list, tuple)) and len(names := read_classes(names)) == len(colours):
            known |= zip(names, map(tuple, colours), strict=True)
    if all(name in known for name in classes):
        return [known[name] for name in classes]
    return [tuple(colour) for colour in np.random.RandomState(42).randint(0, 256, (len(classes), 3)).tolist()]


def inference_pipeline(cfg: Config) -> list[dict] | None:
    """How a config prepares images when it tests: the test dataset's pipeline, else that of validation, else the
    config's own ``test_pipeline``; None if it has none of them.
    """
    for loader in (cfg.get('test_dataloader'), cfg.get('val_dataloader')):
        if loader and 'dataset' in loader and (pipeline := next(datasets(loader['dataset'])).get('pipeline')):
            return pipeline
    return cfg.get('test_pipeline')
