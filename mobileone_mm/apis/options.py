"""What a run of training and one of testing have in common before anything starts."""
import os
import os.path as osp
from pathlib import Path
from tempfile import TemporaryFile

from mmengine.config import Config

from ..engine.config import config_from_file
from ..engine.overrides import override
from ..utils.errors import DiskError, MissingFileError


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


def check_checkpoint(checkpoint: str) -> None:
    """Check that a checkpoint exists, unless it is named by URL.

    Raises:
        MissingFileError: It does not.
    """
    if '://' not in checkpoint and not osp.isfile(checkpoint):
        raise MissingFileError(f'Checkpoint {checkpoint!r} does not exist. Check the path.')
