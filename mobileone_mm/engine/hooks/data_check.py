"""What hooks that check data have in common: when they look, and at which datasets."""
from collections.abc import Iterator
from typing import Any

from mmengine.hooks import Hook

from ...datasets.built import inner_datasets
from ...datasets.check import evaluators


class DataCheckHook(Hook):
    """Checks the datasets of training and validation before training, of validation or testing before these.

    Each is checked once. All processes check, so that all end when one does.
    """

    def __init__(self) -> None:
        self._checked = set()

    def before_train(self, runner) -> None:
        """Check the training data, and the validation data before hours of training."""
        self._once(runner, 'train')
        if getattr(runner, 'val_loop', None) is not None:
            self._once(runner, 'val')

    def before_val(self, runner) -> None:
        """Check the validation data, if that has not been done."""
        self._once(runner, 'val')

    def before_test(self, runner) -> None:
        """Check the test data."""
        self._once(runner, 'test')

    def check(self, runner, split: str) -> None:
        """Check the dataset of ``train``, ``val`` or ``test``; for subclasses."""
        raise NotImplementedError

    def _once(self, runner, split: str) -> None:
        if split not in self._checked:
            self.check(runner, split)
            self._checked.add(split)


def datasets_of(runner, split: str) -> Iterator[tuple[Any, str]]:
    """The datasets of a split, without wrappers, each with its name for messages."""
    inner = list(inner_datasets(getattr(runner, f'{split}_dataloader').dataset))
    for dataset in inner:
        file = getattr(dataset, 'ann_file', '') or ''
        yield dataset, f'the {split} data' + (f' ({file})' if isinstance(file, str) and file else '')


def metrics_of(runner, split: str) -> list:
    """The metrics of a split; none for training."""
    return list(getattr(getattr(runner, f'{split}_evaluator', None), 'metrics', []))


def coco_of(metric):
    """pycocotools' object of a CocoMetric with an annotation file of its own, else None; mm keeps it privately."""
    coco = getattr(metric, '_coco_api', None)
    return coco if hasattr(coco, 'getCatIds') else None


def metric_files(runner, split: str) -> list[str | None]:
    """The ``ann_file`` of each metric of a split, from the config, as metrics do not keep it."""
    cfg = getattr(runner, 'cfg', None) or {}
    files = [each.get('ann_file') if isinstance(each, dict) else None for each in evaluators(cfg, split)]
    metrics = metrics_of(runner, split)
    return files if len(files) == len(metrics) else [None] * len(metrics)

