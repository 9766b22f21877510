"""Training and testing in mmengine's Runner, with errors that say what to do."""
import errno
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from ..datasets.check import evaluators
from ..datasets.explain import explain_annotations
from ..engine.build_errors import explained_build_errors, warn_of_dropped
from ..engine.saving import check_checkpoint_hooks
from ..utils.errors import DataError, DiskError, MobileOneError, some
from ..utils.logs import warn
from ..utils.types import type_name
from .train_options import latest_checkpoint

# By their entries in configs/_base_/default_runtime.py.
_CHECKS = {
    'checkpoint_fit': 'CheckpointFitHook',
    'class_names_fit': 'ClassNamesFitHook',
    'num_classes_fit': 'NumClassesFitHook',
    'coco_fit': 'CocoFitHook',
    'masks_fit': 'MasksFitHook',
    'divergence': 'DivergenceHook',
    'own_checkpoints': 'OwnCheckpointsHook',
    'resume_schedule': 'ResumeScheduleHook',
}
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def build_runner(cfg: Config) -> Runner:
    """The Runner of a config; also for several processes without a GPU."""
    if cfg.get('launcher') == 'pytorch' and get_device() == 'cpu' and not torch.distributed.is_initialized():
        # mmengine's own ways to do these two take a GPU for granted
        torch.distributed.init_process_group('gloo')
        cfg.setdefault('model_wrapper_cfg', dict(
            type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False)))
        cfg.sync_bn = None  # SyncBN has no implementation for the CPU
    _add_checks(cfg)
    _fit_workers(cfg)
    with explained_build_errors(cfg):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    check_checkpoint_hooks(runner)
    warn_of_dropped(cfg)
    return runner


def train(cfg: Config) -> nn.Module:
    """Build the Runner of a config and train.

    Args:
        cfg: From :func:`.train_options.prepare_train`, or any config of an mm library with a ``work_dir``.

    Returns:
        The trained model.

    Raises:
        ConfigError: Something that the config describes cannot be built.
        DataError: A dataset gives no batch, or has other classes than the model.
        CheckpointError: A checkpoint that is to be loaded does not fit.
        DiskError: A checkpoint or a log could not be written.
    """
    runner = build_runner(cfg)
    try:
        # train() takes the loops as they are here
        with explained_build_errors(cfg), _explained_data_errors(cfg, ('train', 'val')):
            loop, _ = runner.train_loop, runner.val_loop
        if loop is not None and hasattr(loop.dataloader.dataset, '__len__') and len(loop.dataloader) == 0:
            loader = loop.dataloader
            raise DataError(f'{len(loader.dataset)} images give no batch of {loader.batch_size} (drop_last=True) on '
                            f'{get_world_size()} device(s). Set train_dataloader.batch_size lower, or add images.')
        with explained_build_errors(cfg):  # of optimizer and schedules
            return runner.train()
    except OSError as error:  # of a checkpoint, which is written by atomic_file, or of a log
        if not isinstance(error, DiskError) and error.errno not in _DISK_ERRORS:
            raise
        message = str(error) if isinstance(error, DiskError) else f'Could not write: {error}.'
        raise DiskError(f'{message} {_how_to_go_on(cfg.work_dir)}') from error
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f'Interrupted. {_how_to_go_on(cfg.work_dir)}') from interrupt


def build_test(cfg: Config) -> Runner:
    """The Runner of a config, with its test loop built; what is left to do is its ``test()``.

    Args:
        cfg: From :func:`.test_options.prepare_test`.

    Raises:
        ConfigError: Something that the config describes cannot be built.
        DataError: The dataset cannot be read.
    """
    runner = build_runner(cfg)
    with explained_build_errors(cfg), _explained_data_errors(cfg, ('test', )):
        loop = runner.test_loop
    _warn_of_equal_names(cfg, loop.dataloader.dataset)
    return runner


def test(cfg: Config) -> dict[str, float]:
    """Build the Runner of a config and test.

    Args:
        cfg: From :func:`.test_options.prepare_test`.

    Returns:
        The metrics by their names.

    Raises:
        ConfigError: Something that the config describes cannot be built.
        DataError: The dataset has no images, or other classes than the model.
        CheckpointError: The checkpoint does not fit.
    """
    return build_test(cfg).test()


def _warn_of_equal_names(cfg: Config, dataset) -> None:
    """Say that drawn images or masks overwrite each other: mm names them by the image's file, without its folder."""
    drawn = (cfg.get('default_hooks') or {}).get('visualization') or {}
    folders = [drawn.get('test_out_dir'), drawn.get('enable') and drawn.get('out_dir'),
               *(each.get('output_dir') for each in evaluators(cfg, 'test') if isinstance(each, dict))]
    folder = next(filter(None, folders), None)
    if folder is None or not hasattr(dataset, 'get_data_info'):
        return
    paths = {dataset.get_data_info(index).get('img_path') for index in range(len(dataset))} - {None}
    counts = Counter(Path(path).stem for path in paths)
    equal = [name for name, count in counts.items() if count > 1]
    if equal:
        warn(f'{len(paths)} images have {len(counts)} different names, as folders do not count: what is written to '
             f'{folder!r} for images of equal names is overwritten, here of {some(equal)}. Give them different names.')


def _add_checks(cfg: Config) -> None:
    """Our hooks that check, also for configs with other hooks than ours; an entry of None switches one off."""
    defaults, missing = cfg.get('default_hooks') or {}, []
    for key, name in _CHECKS.items():
        if key in defaults and defaults[key] is None:
            del defaults[key]  # mmengine takes None for its own hooks only
            continue
        hooks = [*(cfg.get('custom_hooks') or []), *filter(None, defaults.values())]
        if not any(isinstance(hook, dict) and type_name(hook) == name for hook in hooks):
            missing.append(dict(type=name))
        if name == 'DivergenceHook':  # mmdet's comes first, by its priority, and ends without words
            cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or []
                                if not (isinstance(hook, dict) and type_name(hook) == 'CheckInvalidLossHook')]
    if missing:  # before others of the same priority
        cfg.custom_hooks = [*missing, *(cfg.get('custom_hooks') or [])]


def _fit_workers(cfg: Config) -> None:
    """Without workers, leave out what torch's DataLoader refuses then, though there is nothing for it to do."""
    for key, loader in cfg.items():
        # What is built already has been checked by torch.
        if key.endswith('_dataloader') and isinstance(loader, dict) and not loader.get('num_workers'):
            for option in ('persistent_workers', 'prefetch_factor', 'multiprocessing_context', 'timeout'):
                loader.pop(option, None)


@contextmanager
def _explained_data_errors(cfg: Config, splits: tuple[str, ...]) -> Iterator[None]:
    """For building loops only, which reads the annotations: later these errors have other reasons."""
    try:
        yield
    except MobileOneError:
        raise
    except Exception as error:
        explain_annotations(cfg, splits, error)
        raise


def _how_to_go_on(work_dir: str) -> str:
    checkpoint = latest_checkpoint(work_dir)
    return f'{checkpoint!r} is complete: go on from it with --resume.' if checkpoint else 'There is no checkpoint yet.'
