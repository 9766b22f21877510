"""Checkpoints rewritten: foreign backbones to our layout, trained models to their deploy form."""
import os
import sys
from pathlib import Path

import torch

from ..arch import ARCHS
from ..block import MobileOneBlock
from ..checkpoint.fit import check_finite, check_fit, find_arch
from ..checkpoint.layouts import find_in_channels, get_state_dict, is_fused, translate_state_dict
from ..checkpoint.read import read_checkpoint
from ..engine.config import read_config
from ..engine.trained import load_trained
from ..mobileone import MobileOne
from ..reparameterize import reparameterize_model, train_form_blocks
from ..utils.errors import ArgumentError, CheckpointError, ConfigError
from ..utils.files import atomic_file, sha256
from ..version import __version__


def convert_checkpoint(source: str | Path, out: str | Path, arch: str | None = None, trust: bool = False) -> dict:
    """Write the MobileOne in a checkpoint of Apple, timm, mmpretrain, or inside a whole model, in our layout.

    Args:
        source: Checkpoint to read.
        out: Checkpoint to write, complete or not at all.
        arch: What it is expected to be; default: found by keys and shapes.
        trust: As for ``read_checkpoint``.

    Returns:
        ``arch``, ``form`` (``train`` or ``deploy``), and ``left_out``, the keys that are not the backbone's.

    Raises:
        MissingFileError: There is no ``source``.
        CheckpointError: It cannot be read, is no MobileOne, or not of this arch.
        ArgumentError: ``out`` is ``source``.
        DiskError: ``out`` cannot be written.
    """
    _check_out(source, out)
    translated, left_out = translate_state_dict(get_state_dict(read_checkpoint(str(source), 'cpu', trust)))
    fused = is_fused(translated)
    if arch is not None:
        with torch.device('meta'):
            model = MobileOne(arch, find_in_channels(translated), deploy=fused)
        check_fit(translated, model)
    else:
        arch = find_arch(translated)
        if arch is None:
            raise CheckpointError(f'{str(source)!r} is a MobileOne, but fits none of {", ".join(ARCHS)}. Name the one '
                                  'it should be (--arch) to see what differs.')
        check_finite(translated)
    form = 'deploy' if fused else 'train'
    _save(dict(state_dict=translated, meta=_meta(source, arch=arch, form=form)), out)
    return dict(arch=arch, form=form, left_out=left_out)


def deploy_checkpoint(config: str | Path, source: str | Path, out: str | Path, trust: bool = False) -> dict:
    """Write the deploy form of a trained detector or segmentor: fused backbone and heads, nothing else.

    Of a run with EMAHook it is the averaged model, the one that was validated (see ``get_state_dict``).

    Args:
        config: Config that it was trained with.
        source: Its checkpoint.
        out: Checkpoint to write, complete or not at all.
        trust: As for ``read_checkpoint``.

    Returns:
        ``parameters``, a pair of numbers: of the train form and of the deploy form.

    Raises:
        MissingFileError: There is no ``config`` or ``source``.
        ConfigError: The config has no model, or no MobileOne.
        CheckpointError: ``source`` cannot be read, is deployed already, or does not fit the config.
        ArgumentError: ``out`` is ``source``.
        DiskError: ``out`` cannot be written.
    """
    _check_out(source, out)
    cfg = read_config(config)
    model, checkpoint = load_trained(cfg, source, trust)
    if not any(isinstance(module, MobileOneBlock) for module in model.modules()):
        raise ConfigError(f'The model of {str(config)!r} has no MobileOne, so there is nothing to reparameterize.')
    # With branches, weights are more tensors than the deploy form has; a config may say deploy=True.
    if not list(train_form_blocks(model)) and len(get_state_dict(checkpoint)) <= len(model.state_dict()):
        raise CheckpointError(f'{str(source)!r} is in the deploy form already.')
    trained = sum(parameter.numel() for parameter in model.parameters())
    reparameterize_model(model, inplace=True)
    arch = next((module.arch for module in model.modules() if isinstance(module, MobileOne)), None)
    kept = {key: value for key, value in checkpoint.get('meta', {}).items() if key in ('dataset_meta', 'epoch', 'iter')}
    meta = kept | _meta(source, arch=arch, form='deploy', cfg=cfg.pretty_text)
    _save(dict(state_dict=model.state_dict(), meta=meta), out)
    return dict(parameters=(trained, sum(parameter.numel() for parameter in model.parameters())))


def _check_out(source: str | Path, out: str | Path) -> None:
    if os.path.exists(out) and os.path.exists(source) and os.path.samefile(source, out):
        raise ArgumentError(f'OUT is SRC, {str(source)!r}. Name another file, so that the source stays.')


def _meta(source: str | Path, **more) -> dict:
    versions = dict(mobileone_mm=__version__, torch=str(torch.__version__))
    versions |= {name: sys.modules[name].__version__ for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg')
                 if name in sys.modules}
    return _plain(dict(source=os.path.basename(source), source_sha256=sha256(source), versions=versions, **more))


def _plain(value):
    """Without mmengine's own containers, which safe loading would refuse."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _save(checkpoint: dict, out: str | Path) -> None:
    with atomic_file(out) as file:
        torch.save(checkpoint, file)
