"""What ``tools/train.py`` and ``tools/test.py`` do between parsing and the Runner."""
import errno
import json
import os
import os.path as osp
import re
import zipfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryFile

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..datasets.check import check_data
from ..deploy.exported_file import is_exported
from ..deploy.exported_model import use_exported
from ..engine.config import config_from_file
from ..utils.errors import DataError, DiskError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

_TTA_MODELS = {
    'mmdet': dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    'mmseg': dict(type='SegTTAModel'),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}


def add_common_arguments(parser: ArgumentParser) -> None:
    """The flags that train and test share, as in mmdet and mmseg."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/CONFIG_NAME)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
        help='override settings of the config: key=value; lists as key="[a,b]" or key=a,b; nested as key="[(a,b),(c,d)]"')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes it
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by the launcher')


def load_config(args: Namespace) -> Config:
    """Read the config and apply the flags that train and test share.

    Raises:
        FileNotFoundError: There is no such config.
        DiskError: The work dir cannot be written to.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = config_from_file(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', Path(args.config).stem)
    _check_work_dir(cfg.work_dir)
    return cfg


def prepare_train(args: Namespace) -> Config:
    """Check and apply the flags of ``tools/train.py``; what is wrong with them is said before anything starts.

    Raises:
        FileNotFoundError: Config, checkpoint or data set missing.
        ValueError: A flag that the config cannot follow.
    """
    cfg = load_config(args)
    if args.amp:
        kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise ValueError(f"--amp needs optim_wrapper.type='OptimWrapper', got {kind!r}.")
        if get_device() == 'cpu':
            raise ValueError('--amp needs an accelerator, and there is none. Leave it out.')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config.')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        checkpoint = latest_checkpoint(cfg.work_dir) if args.resume == 'auto' else args.resume
        _check_file(checkpoint)
        if checkpoint is not None:
            cfg.resume = True
            cfg.load_from = checkpoint
    check_data(cfg, ('train', 'val'))
    return cfg


def prepare_test(args: Namespace) -> Config:
    """Check and apply the flags of ``tools/test.py``; what is wrong with them is said before anything starts.

    Raises:
        FileNotFoundError: Config, checkpoint or data set missing.
        ValueError: A flag that the config cannot follow.
    """
    cfg = load_config(args)
    _check_file(args.checkpoint)
    exported = is_exported(args.checkpoint)
    if exported:
        if args.tta:
            raise ValueError('--tta is for checkpoints. Leave it out for an exported file.')
        use_exported(cfg, args.checkpoint, args.cfg_options)
    cfg.load_from = None if exported else args.checkpoint
    cfg.resume = False  # the config that a resumed run dumped says True
    scope = cfg.get('default_scope')
    is_segmentation = scope == 'mmseg'
    if args.show or args.show_dir:
        _draw(cfg, args, scope)
    if args.tta:
        _use_tta(cfg, scope)
    if args.out is not None:
        if is_segmentation:
            cfg.test_evaluator.update(output_dir=args.out, keep_results=True)
        elif not args.out.endswith(('.pkl', '.pickle')):
            raise ValueError(f'--out is a .pkl or .pickle file for a detector or a classifier, got {args.out!r}.')
        else:
            evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
            dump = 'DumpResults' if scope == 'mmpretrain' else 'DumpDetResults'
            cfg.test_evaluator = [*evaluators, dict(type=dump, out_file_path=args.out)]
    check_data(cfg, ('test', ))
    return cfg


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
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def train(cfg: Config) -> None:
    """Build the Runner of a config and train.

    Raises:
        DataError: The data set gives no batch, or has other classes than the model.
        CheckpointError: A checkpoint that is to be loaded does not fit.
        DiskError: A checkpoint or a log could not be written.
    """
    runner = build_runner(cfg)
    try:
        with _explained_data_errors():
            loader = runner.train_dataloader
            if hasattr(loader.dataset, '__len__') and len(loader) == 0:
                raise DataError(f'{len(loader.dataset)} pictures give no batch of {loader.batch_size} (drop_last=True) on '
                                f'{get_world_size()} device(s). Set train_dataloader.batch_size lower, or add pictures.')
            runner.train()
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise DiskError(f'Could not write: {error}. {_how_to_go_on(cfg.work_dir)}') from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f'Interrupted. {_how_to_go_on(cfg.work_dir)}') from None


def test(cfg: Config) -> None:
    """Build the Runner of a config and test.

    Raises:
        DataError: The data set has no pictures, or other classes than the model.
        CheckpointError: The checkpoint does not fit.
    """
    runner = build_runner(cfg)
    with _explained_data_errors():
        runner.test()


def latest_checkpoint(work_dir: str) -> str | None:
    """The checkpoint to resume from: the one that ``last_checkpoint`` names, else the newest complete one.

    A file cut short by a kill is passed over. None if there is none, which starts from the beginning.
    """
    numbered = {path: re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name) for path in Path(work_dir).glob('*.pth')}
    candidates = sorted((path for path in numbered if numbered[path]), key=lambda path: int(numbered[path][1]),
                        reverse=True)
    pointer = Path(work_dir, 'last_checkpoint')
    if pointer.is_file() and (name := pointer.read_text().strip()):
        # By its name too, for a work_dir that was moved.
        candidates = [Path(name), Path(work_dir, Path(name).name), *candidates]
    return next((str(path) for path in candidates if path.is_file() and zipfile.is_zipfile(path)), None)


def _add_checks(cfg: Config) -> None:
    """Our hooks that check, also for configs with other hooks than ours; an entry of None switches one off."""
    defaults = cfg.get('default_hooks') or {}
    for key, name in (('checkpoint_fit', 'CheckpointFitHook'), ('num_classes_fit', 'NumClassesFitHook')):
        if key in defaults and defaults[key] is None:
            del defaults[key]  # mmengine takes None for its own hooks only
            continue
        hooks = [*(cfg.get('custom_hooks') or []), *filter(None, defaults.values())]
        if not any(isinstance(hook, dict) and hook.get('type') == name for hook in hooks):
            cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type=name)]


@contextmanager
def _explained_data_errors() -> Iterator[None]:
    try:
        yield
    except json.JSONDecodeError as error:
        raise DataError(f'An ann_file is no JSON, or is cut short: {error}. It ends {error.doc[-40:]!r}.') from error
    except KeyError as error:
        if error.args[0] not in ('images', 'annotations', 'categories'):
            raise
        raise DataError(f'An ann_file is not in the format of COCO: it has no {error}.') from error
    except ValueError as error:
        if str(error) != 'need at least one array to concatenate':
            raise
        # What mmengine's BaseDataset says when it keeps the list of its pictures.
        raise DataError("No pictures are left of a data set's annotations. Check ann_file, filter_cfg, and that "
                        "metainfo['classes'] are the names in the annotations.") from error


def _how_to_go_on(work_dir: str) -> str:
    checkpoint = latest_checkpoint(work_dir)
    return f'{checkpoint!r} is complete: go on from it with --resume.' if checkpoint else 'There is no checkpoint yet.'


def _check_work_dir(work_dir: str) -> None:
    try:
        os.makedirs(work_dir, exist_ok=True)
        with TemporaryFile(dir=work_dir):
            pass
    except OSError as error:
        raise DiskError(f'Cannot write to the work dir {work_dir!r}: {error.strerror}. Name another one with '
                        '--work-dir.') from error


def _check_file(checkpoint: str | None) -> None:
    if checkpoint and '://' not in checkpoint and not osp.isfile(checkpoint):
        raise FileNotFoundError(f'Checkpoint {checkpoint!r} does not exist. Check the path.')


def _draw(cfg: Config, args: Namespace, scope: str | None) -> None:
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise ValueError('--show and --show-dir need default_hooks.visualization in the config.')
    if scope == 'mmpretrain':
        hook.update(enable=True, interval=1, show=args.show, wait_time=args.wait_time, out_dir=args.show_dir)
        return
    hook.draw = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir and scope == 'mmseg':
        cfg.visualizer.save_dir = args.show_dir
    elif args.show_dir:
        hook.test_out_dir = args.show_dir


def _use_tta(cfg: Config, scope: str | None) -> None:
    """Wrap the model for test-time augmentation: the config's, else the tool's own defaults (flip)."""
    if 'tta_model' not in cfg:
        cfg.tta_model = _TTA_MODELS.get(scope, _TTA_MODELS['mmdet'])
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_pipeline' not in cfg:
        flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
        *steps, pack = deepcopy(dataset.pipeline)
        pack.setdefault('meta_keys', ('img_path', 'ori_shape', 'img_shape', 'scale_factor'))
        pack.meta_keys = (*pack.meta_keys, 'flip', 'flip_direction')
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
