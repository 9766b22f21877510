"""The command-line flags that tools share."""
from argparse import ArgumentParser

from mmengine.config import DictAction


def add_cfg_options(parser: ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='override settings of the config: key=value; lists as key="[a,b]" or key=a,b; nested as '
        'key="[(a,b),(c,d)]"')


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add those of train and test, as in mmdet and mmseg, for ``prepare_train`` and ``prepare_test``."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/CONFIG_NAME)')
    add_cfg_options(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes it
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by the launcher')
