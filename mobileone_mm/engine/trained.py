"""A trained model as its config and its checkpoint have it."""
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..checkpoint.fit import check_finite
from ..checkpoint.layouts import as_classifier, find_prefixes, get_state_dict, is_fused, translate_state_dict, without_module
from ..checkpoint.read import read_checkpoint
from ..mobileone import MobileOne
from ..utils.errors import CheckpointError


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


