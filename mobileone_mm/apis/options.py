"""What a run of training and one of testing have in common before anything starts."""
import os
import os.path as osp
from pathlib import Path
from tempfile import TemporaryFile

from mmengine.config import Config

from ..engine.config import config_from_file
from ..engine.overrides import override
from ..utils.errors import ConfigError, DiskError, MissingFileError


def load_config(config: str | Path, *, work_dir: str | Path | None = None, cfg_options: dict | None = None,
                launcher: str = 'none', local_rank: int = 0) -> Config:
    """Read a config and apply the options that training and testing share.

    Args:
        config: Config file.
        work_dir: Folder for logs and checkpoints; default: the config's, else ``work_dirs/CONFIG_NAME``. It is created.
        cfg_options: Settings to override, by dotted key.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        local_rank: Rank of this process on its machine, if the environment variable ``LOCAL_RANK`` does not say it.

    Raises:
        MissingFileError: There is no such config.
        ConfigError: It cannot be read, or has no place for an option.
        DiskError: The work dir cannot be written to.
    """
    if launcher != 'none':
        os.environ.setdefault('LOCAL_RANK', str(local_rank))  # which mmengine reads
    cfg = config_from_file(config)
    cfg.launcher = launcher
    override(cfg, cfg_options)
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', Path(config).stem)
    _check_work_dir(cfg.work_dir)
    return cfg


def _check_work_dir(work_dir: str) -> None:
    try:
        os.makedirs(work_dir, exist_ok=True)
        with TemporaryFile(dir=work_dir):
            pass
    except OSError as error:
        raise DiskError(f'Cannot write to the work dir {work_dir!r}: {error.strerror}. Name another one with '
                        '--work-dir.') from error


def check_checkpoint(checkpoint: str, of: str = '') -> None:
    """Check that a checkpoint exists, unless it is named by URL.

    Args:
        checkpoint: Its path, in which mmengine takes ``~`` for the home folder, or its URL.
        of: The setting that names it, for the message.

    Raises:
        MissingFileError: It does not, or is a folder.
    """
    path = osp.expanduser(checkpoint)
    if '://' in checkpoint or osp.isfile(path):
        return
    where = f' of {of}' if of else ''
    if osp.isdir(path):
        raise MissingFileError(f'Checkpoint {checkpoint!r}{where} is a folder. Name a file in it.')
    raise MissingFileError(f'Checkpoint {checkpoint!r}{where} does not exist. Check the path.')


def check_parts(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that each split has all that it needs, or nothing, which mmengine's Runner refuses otherwise.

    Args:
        cfg: A whole config.
        splits: Whose datasets are used.

    Raises:
        ConfigError: Naming what is missing, or None.
    """
    for split, third in (('train', 'optim_wrapper'), ('val', 'val_evaluator'), ('test', 'test_evaluator')):
        parts = (f'{split}_dataloader', f'{split}_cfg', third)
        missing = [part for part in parts if cfg.get(part) is None]
        if missing and len(missing) < len(parts):
            there = [part for part in parts if part not in missing]
            raise ConfigError(f'{" and ".join(there)} of the config need{"s" * (len(there) == 1)} '
                              f'{" and ".join(missing)}, which {"are" if len(missing) > 1 else "is"} None. Set all of '
                              f'{", ".join(parts)}, or all to None.')
        loader = cfg.get(parts[0])
        if split in splits and isinstance(loader, dict) and not loader.get('dataset'):
            raise ConfigError(f'{parts[0]} has no dataset. Set {parts[0]}.dataset=dict(type=...).')
