"""The options of ``tools/test.py``."""
from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict

from ..datasets.check import check_data, datasets, evaluators
from ..datasets.pipelines import check_flips
from ..deploy.exported_model import use_exported
from ..deploy.reader import is_exported
from ..utils.errors import ArgumentError, ConfigError
from ..utils.types import task_library, type_name
from .options import check_checkpoint, check_parts, load_config

_TTA_MODELS = {
    # By its path: mmdet registers it with mmengine, where a name is known once mmdet's models are imported.
    'mmdet': dict(type='mmdet.models.test_time_augs.DetTTAModel',
                  tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    'mmseg': dict(type='mobileone_mm.tasks.segmentation.SegTTAModel'),
    'mmpretrain': dict(type='mmpretrain.AverageClsScoreTTA'),
}
_WRITERS = ('IoUMetric', 'CityscapesMetric')  # mmseg's metrics that write masks


def prepare_test(config: str | Path, checkpoint: str | Path, *, work_dir: str | Path | None = None,
                 out: str | Path | None = None, show: bool = False, show_dir: str | Path | None = None,
                 wait_time: float = 2, tta: bool = False, cfg_options: dict | None = None, launcher: str = 'none',
                 local_rank: int = 0) -> Config:
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
    if not cfg.get('test_dataloader'):
        raise ConfigError(f'{str(config)!r} has no test_dataloader, so there is nothing to test on. Write one, with '
                          'test_evaluator and test_cfg=dict().')
    check_parts(cfg, ('test', ))
    exported = is_exported(checkpoint)
    if exported:
        if tta:
            raise ArgumentError('--tta is for checkpoints. Leave it out for an exported file.')
        use_exported(cfg, checkpoint, cfg_options)
    cfg.load_from = None if exported else checkpoint
    cfg.resume = False  # the config that a resumed run dumped says True
    if show or show_dir:
        _draw(cfg, show, show_dir and str(show_dir), wait_time)
    if tta:
        _use_tta(cfg)
    else:
        check_flips(cfg, 'test')
    if out is not None:
        _write_predictions(cfg, str(out))
    check_data(cfg, ('test', ))
    return cfg


def _draw(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    hook, scope = (cfg.get('default_hooks') or {}).get('visualization'), task_library(cfg)
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
    """Wrap the model for test-time augmentation: the config's, else the image as it is and flipped."""
    if 'tta_model' not in cfg:
        cfg.tta_model = _TTA_MODELS.get(task_library(cfg), _TTA_MODELS['mmdet'])
    elif task_library(cfg) == 'mmseg' and type_name(cfg.tta_model) == 'SegTTAModel':
        cfg.tta_model.type = _TTA_MODELS['mmseg']['type']  # the same, but for models of one output channel
    if 'tta_pipeline' in cfg:
        _check_tta_pipeline(cfg)
    for dataset in datasets(cfg.test_dataloader.dataset):
        if not dataset.get('pipeline'):
            raise ConfigError(f'--tta needs a pipeline in test_dataloader.dataset, and {type_name(dataset)} has none.')
        dataset.pipeline = deepcopy(cfg.tta_pipeline) if 'tta_pipeline' in cfg else _with_flips(dataset.pipeline)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _with_flips(pipeline: list[dict]) -> list[dict]:
    """A test pipeline that gives the image as it is, and flipped; the annotations as they are.

    The flip comes before padding: mm takes the padding off the right and the lower side, before it flips back.
    """
    if any(type_name(step) == 'TestTimeAug' for step in pipeline):
        return pipeline  # it gives views already
    *steps, pack = (deepcopy(step) for step in pipeline if type_name(step) != 'RandomFlip')
    if pack.get('meta_keys'):  # the default has these
        pack.meta_keys = tuple(dict.fromkeys((*pack.meta_keys, 'img_path', 'flip', 'flip_direction')))
    start = next((i for i, step in enumerate(steps) if 'Pad' in type_name(step)), len(steps))
    flips = [dict(type='mobileone_mm.datasets.flip.FlipImage', direction=each) for each in (None, 'horizontal')]
    transforms = [flips, *([step] for step in (*steps[start:], pack))]
    return [*steps[:start], dict(type='TestTimeAug', transforms=transforms)]


def _check_tta_pipeline(cfg: Config) -> None:
    """Refuse to flip a truth with which predictions are compared: mm takes that of the first view.

    Other metrics of mmdet read annotations of their own, and the truth of mmpretrain has no sides.
    """
    if task_library(cfg) != 'mmseg' and not any(type_name(each) == 'VOCMetric' for each in evaluators(cfg, 'test')):
        return
    is_loaded = False
    for step in cfg.tta_pipeline:
        for views in step.transforms if type_name(step) == 'TestTimeAug' else [[step]]:
            first = views[0] if views else {}
            if is_loaded and 'Flip' in type_name(first) and first.get('prob') != 0.:
                raise ConfigError('tta_pipeline loads the annotations before it flips, and flips first: predictions '
                                  "would be compared with a mirrored truth. Put dict(type='LoadAnnotations') behind "
                                  'RandomFlip, or RandomFlip with prob=0.0 first.')
            is_loaded |= any('Annotations' in type_name(view) for view in views)


def _write_predictions(cfg: Config, out: str) -> None:
    scope = task_library(cfg)
    metrics = evaluators(cfg, 'test')
    if scope == 'mmseg':
        writers = [each for each in metrics if len(metrics) == 1 or type_name(each) in _WRITERS]
        if not writers:
            raise ConfigError(f'--out needs one of {", ".join(_WRITERS)} in test_evaluator, to write the masks.')
        writers[0].update(output_dir=out, keep_results=True)
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise ArgumentError(f'--out is a .pkl or .pickle file for a detector or a classifier, got {out!r}.')
    dump = 'DumpResults' if scope == 'mmpretrain' else 'mmdet.DumpDetResults'
    cfg.test_evaluator = [*metrics, dict(type=dump, out_file_path=out)]
