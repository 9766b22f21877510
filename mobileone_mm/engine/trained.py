"""A trained model, built from its config and its checkpoint."""
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ..checkpoint.layouts import get_state_dict, without_module
from ..checkpoint.pretrained import download, is_url
from ..checkpoint.read import read_checkpoint
from ..utils.types import task_library
from .build_errors import explained_build_errors
from .fit import fit_model


def load_trained(cfg: Config, source: str | Path, trust: bool = False) -> tuple[nn.Module, dict]:
    """Build a config's model and load a checkpoint, of train or deploy form, that must fit entirely.

    If the run had EMAHook, this is the averaged model, which was validated (see
    ``get_state_dict``).

    Args:
        cfg: Config of the training. Each MobileOne for which the checkpoint has fused weights goes
            to the deploy form.
        source: The checkpoint.
        trust: As for ``read_checkpoint``.

    Returns:
        The model, in training mode as built, and the checkpoint.

    Raises:
        MissingFileError: There is no ``source``.
        CheckpointError: It cannot be read, or does not fit the config.
        ConfigError: The config's model cannot be built.
    """
    if is_url(str(source)):
        source = download(str(source), 'Download it by hand, and name the file.')
    checkpoint = read_checkpoint(str(source), 'cpu', trust)
    init_default_scope(task_library(cfg) or 'mmengine')
    with explained_build_errors(cfg):
        model = MODELS.build(cfg.model)
    model.load_state_dict(fit_model(without_module(get_state_dict(checkpoint)), model, switches=True))
    return model, checkpoint
