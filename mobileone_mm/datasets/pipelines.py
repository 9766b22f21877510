"""Pipelines of data that is evaluated: nothing in them may move images away from their truth."""
from collections.abc import Iterator

from mmengine.config import Config

from ..utils.errors import ConfigError
from ..utils.types import task_library, type_name
from .check import datasets

_VIEWS = ('TestTimeAug', 'MultiScaleFlipAug')  # whose predictions are flipped back


def check_flips(cfg: Config, split: str) -> None:
    """Refuse pipelines that flip images at random, as those of training do, where predictions are evaluated.

    mmdet leaves predictions flipped, and COCO's truth is not. mmseg flips them back, but not a truth that was loaded
    before; one that is loaded behind the flip is allowed. A classifier's truth has no sides.

    Args:
        cfg: A whole config.
        split: ``val`` or ``test``.

    Raises:
        ConfigError: Naming the step of the pipeline.
    """
    library, loader = task_library(cfg), cfg.get(f'{split}_dataloader')
    if not loader or library not in ('mmdet', 'mmseg'):
        return
    for dataset in datasets(loader['dataset']):
        is_loaded = library == 'mmdet'
        for step in _steps(dataset.get('pipeline') or ()):
            name, prob = type_name(step), step.get('prob')
            is_loaded |= 'Annotations' in name
            if is_loaded and 'Flip' in name and name != 'FlipImage' and _is_some(prob):
                way = ' For predictions on flipped images too, test with --tta.' if split == 'test' else ''
                raise ConfigError(
                    f'The pipeline of {type_name(dataset)} in {split}_dataloader flips images: {name} with prob={prob}'
                    '. Predictions would be compared with a truth that is not flipped alike. Remove it from the '
                    f'pipeline, or give it prob=0.0.{way}')


def _steps(pipeline: list | tuple) -> Iterator[dict]:
    """The steps of a pipeline, and those inside of wrappers such as RandomApply."""
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            yield from _steps(step)
        elif isinstance(step, dict) and type_name(step) not in _VIEWS:
            yield step
            inner = step.get('transforms') or ()
            yield from _steps(inner if isinstance(inner, (list, tuple)) else [inner])


def _is_some(prob: float | list | None) -> bool:
    return any(prob) if isinstance(prob, (list, tuple)) else bool(prob)
