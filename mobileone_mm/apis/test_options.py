"""The options of ``tools/test.py``."""
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..datasets.check import check_data
from ..deploy.exported_file import is_exported
from ..deploy.exported_model import use_exported
from ..utils.errors import ArgumentError, ConfigError
from .options import check_checkpoint, load_config

_TTA_MODELS = {
    'mmdet': dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    'mmseg': dict(type='SegTTAModel'),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}
_WRITERS = ('IoUMetric', 'CityscapesMetric')  # mmseg's metrics that write masks


def prepare_test(config: str | Path, checkpoint: str | Path, *, work_dir: str | None = None, out: str | None = None,
                 show: bool = False, show_dir: str | None = None, wait_time: float = 2, tta: bool = False,
                 cfg_options: dict | None = None, launcher: str = 'none', local_rank: int = 0) -> Config:
    """Read a config and apply options for testing; what is wrong with them is said before anything starts.

    Args:
        config: Config file.
        checkpoint: Checkpoint, or a file that ``tools/export.py`` wrote.
        work_dir: As for :func:`.options.load_config`, like the last three.
        out: .pkl file for the predictions; for a segmentor, folder for PNG masks.
        show: Show predictions in a window.
        show_dir: Draw predictions into this folder: for a detector below the work dir, for others as it is, as in mm.
        wait_time: Seconds between images of ``show``.
        tta: Test-time augmentation.
        cfg_options: Settings to override.
        launcher: Job launcher.
        local_rank: Rank on this machine.

    Returns:
        What :func:`.launch.test` takes.

    Raises:
        MissingFileError: Config, checkpoint or dataset missing.
        ArgumentError: An option that does not go with the others, or with the kind of model.
        ExportedFileError: The exported file cannot be read.
        ConfigError: The config cannot be read, or does not allow an option.
        DiskError: The work dir cannot be written to.
    """
    cfg = load_config(config, work_dir=work_dir, cfg_options=cfg_options, launcher=launcher, local_rank=local_rank)
    checkpoint = str(checkpoint)
    check_checkpoint(checkpoint)
    exported = is_exported(checkpoint)
    if exported:
        if tta:
            raise ArgumentError('--tta is for checkpoints. Leave it out for an exported file.')
        use_exported(cfg, checkpoint, cfg_options)
    cfg.load_from = None if exported else checkpoint
    cfg.resume = False  # the config that a resumed run dumped says True
    if show or show_dir:
        _draw(cfg, show, show_dir, wait_time)
    if tta:
        _use_tta(cfg)
    if out is not None:
        _write_predictions(cfg, str(out))
    check_data(cfg, ('test', ))
    return cfg


def _draw(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    hook, scope = (cfg.get('default_hooks') or {}).get('visualization'), cfg.get('default_scope')
    if hook is None:
        raise ConfigError('--show and --show-dir need default_hooks.visualization in the config.')
    if scope == 'mmpretrain':
        hook.update(enable=True, interval=1, show=show, wait_time=wait_time, out_dir=show_dir)
        return
    hook.draw = True
    if show:
        hook.update(show=True, wait_time=wait_time)
    if show_dir and scope == 'mmseg':
        if not cfg.get('visualizer'):
            raise ConfigError('--show-dir needs a visualizer in the config.')
        cfg.visualizer.save_dir = show_dir
    elif show_dir:
        hook.test_out_dir = show_dir


def _use_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation: the config's, else flips."""
    if 'tta_model' not in cfg:
        cfg.tta_model = _TTA_MODELS.get(cfg.get('default_scope'), _TTA_MODELS['mmdet'])
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


def _write_predictions(cfg: Config, out: str) -> None:
    scope = cfg.get('default_scope')
    evaluators = cfg.get('test_evaluator')
    if not evaluators:
        raise ConfigError('--out needs a test_evaluator in the config.')
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    if scope == 'mmseg':
        writers = [each for each in evaluators if len(evaluators) == 1 or _writes_masks(each.get('type'))]
        if not writers:
            raise ConfigError(f'--out needs one of {", ".join(_WRITERS)} in test_evaluator, to write the masks.')
        writers[0].update(output_dir=out, keep_results=True)
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise ArgumentError(f'--out is a .pkl or .pickle file for a detector or a classifier, got {out!r}.')
    dump = 'DumpResults' if scope == 'mmpretrain' else 'DumpDetResults'
    cfg.test_evaluator = [*evaluators, dict(type=dump, out_file_path=out)]


def _writes_masks(kind: str | type) -> bool:
    name = kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__
    return name in _WRITERS
