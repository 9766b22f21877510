"""A trained model as its config and its checkpoint have it."""
import os
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import Tensor, nn

from .checkpoint import (
    CheckpointError,
    as_classifier,
    check_finite,
    find_prefixes,
    get_state_dict,
    is_fused,
    read_checkpoint,
    translate_state_dict,
    without_module,
)
from .data import ROOT_VARIABLES, datasets
from .graphs import MissingPackageError
from .mobileone import MobileOne


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


def load_trained(cfg: Config, source: str | Path, trust: bool = False) -> tuple[nn.Module, dict]:
    """Build a config's model and load a checkpoint that has to fit whole; of the train or of the deploy form.

    Of a run with EMAHook it is the averaged model, the one that was validated (see ``get_state_dict``).

    Args:
        cfg: Config that it was trained with; where the checkpoint is in the deploy form, the model's is set to it.
        source: Its checkpoint.
        trust: As for ``read_checkpoint``.

    Returns:
        The model, in training mode as built, and the checkpoint.

    Raises:
        FileNotFoundError: There is no ``source``.
        CheckpointError: It cannot be read, or does not fit the config.
    """
    checkpoint = read_checkpoint(str(source), 'cpu', trust)
    state_dict = without_module(get_state_dict(checkpoint))
    if holds_deploy_weights(state_dict):
        set_deploy(cfg.model)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = MODELS.build(cfg.model)
    state_dict = as_classifier(state_dict, model)
    if find_prefixes(state_dict) == {''}:
        raise CheckpointError(f'{str(source)!r} holds a backbone alone, expected a trained model of {str(cfg.filename)!r}.')
    try:
        model.load_state_dict(state_dict)
    except RuntimeError as error:  # torch's own strict check, of the neck and the head
        lines = str(error).splitlines()
        raise CheckpointError(f'{str(source)!r} does not fit {str(cfg.filename)!r}: ' + ' '.join(
            line.strip()[:300] for line in lines[1:4])) from error
    check_finite(state_dict)
    return model, checkpoint


def holds_deploy_weights(state_dict: dict[str, Tensor]) -> bool:
    """Whether a state dict, of a backbone or of a whole model, has a MobileOne in the deploy form."""
    try:
        return is_fused(translate_state_dict(state_dict)[0])
    except CheckpointError:
        return False


def set_deploy(model: dict) -> None:
    """Let every MobileOne in a model's config be built in the deploy form, in place."""
    for value in list(model.values()):
        for child in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(child, dict):
                set_deploy(child)
    if model.get('type') in ('MobileOne', 'mmengine.MobileOne', MobileOne):
        model['deploy'] = True


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
