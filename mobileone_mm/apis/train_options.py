"""The options of ``tools/train.py``."""
import re
import zipfile
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from ..datasets.check import check_data
from ..datasets.pipelines import check_flips
from ..utils.errors import ArgumentError, ConfigError, print_warning, some
from ..utils.types import type_name
from .options import check_checkpoint, check_parts, load_config


def prepare_train(config: str | Path, *, work_dir: str | Path | None = None, amp: bool = False,
                  auto_scale_lr: bool = False, resume: str | Path | bool | None = None, cfg_options: dict | None = None,
                  launcher: str = 'none', local_rank: int = 0) -> Config:
    """Read a config and apply options for training; what is wrong with them is said before anything starts.

    Args:
        config: Config file.
        work_dir: As for :func:`.options.load_config`, like the last three.
        amp: Automatic mixed precision.
        auto_scale_lr: Scale the LR by the batch size over the config's ``auto_scale_lr.base_batch_size``.
        resume: Checkpoint to go on from, or ``'auto'`` (or True) for the latest in the work dir, if there is one.
        cfg_options: Settings to override.
        launcher: Job launcher.
        local_rank: Rank on this machine.

    Returns:
        What :func:`.launch.train` takes.

    Raises:
        MissingFileError: Config, checkpoint or dataset missing.
        ArgumentError: An option that cannot be followed here.
        ConfigError: The config cannot be read, or does not allow an option.
        DiskError: The work dir cannot be written to.
    """
    cfg = load_config(config, work_dir=work_dir, cfg_options=cfg_options, launcher=launcher, local_rank=local_rank)
    if amp:
        if not cfg.get('optim_wrapper'):
            raise ConfigError('--amp needs an optim_wrapper, and the config has none.')
        kind = type_name(cfg.optim_wrapper) or 'OptimWrapper'
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise ConfigError(f"--amp needs optim_wrapper.type='OptimWrapper', got {kind!r}.")
        if get_device() == 'cpu':
            raise ArgumentError('--amp needs an accelerator, and there is none. Leave it out.')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ConfigError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config.')
        cfg.auto_scale_lr.enable = True
    if resume is not None and resume is not False:
        checkpoint = latest_checkpoint(cfg.work_dir) if resume in ('auto', True) else str(resume)
        if checkpoint is not None:
            check_checkpoint(checkpoint)
            cfg.resume = True
            cfg.load_from = checkpoint
    if cfg.get('load_from') and cfg.get('runner_type') is None:  # other Runners also read folders, as of DeepSpeed
        check_checkpoint(cfg.load_from, 'load_from')
    check_parts(cfg, ('train', 'val'))
    check_flips(cfg, 'val')
    check_data(cfg, ('train', 'val'))
    if not cfg.get('resume'):
        _warn_of_earlier(cfg)
    return cfg


def _warn_of_earlier(cfg: Config) -> None:
    """Say which checkpoints of an earlier run are in the way: CheckpointHook overwrites those of the same names."""
    out_dir = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')
    folder = Path(out_dir, Path(cfg.work_dir).name) if out_dir else Path(cfg.work_dir)
    found = [path.name for path in folder.glob('*.pth') if re.match(r'(?:epoch|iter|best)_', path.name)]
    if found:
        print_warning(f'{str(folder)!r} holds checkpoints of an earlier run ({some(found)}). This run starts anew, and '
                      'overwrites those of the same names. To go on from them: --resume. To keep them: another '
                      '--work-dir.')


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint to resume from: the one that ``last_checkpoint`` names, else the newest complete one.

    mmengine's ``find_latest_checkpoint`` returns what ``last_checkpoint`` names, whatever that is. This one passes over
    a file that is missing or cut short by a kill, and takes that of a work dir which was moved or copied, not the one
    that it came from.

    Returns:
        Its path; None if there is none, which starts from the beginning.
    """
    numbered = {path: re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name) for path in Path(work_dir).glob('*.pth')}
    candidates = sorted((path for path in numbered if numbered[path]), key=lambda path: int(numbered[path][1]),
                        reverse=True)
    pointer = Path(work_dir, 'last_checkpoint')
    if pointer.is_file() and (name := pointer.read_text(encoding='utf-8').strip()):
        candidates = [Path(work_dir, Path(name).name), Path(name), *candidates]
    return next((str(path) for path in candidates if path.is_file() and zipfile.is_zipfile(path)), None)
