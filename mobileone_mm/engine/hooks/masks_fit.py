"""A hook that checks masks against the classes of a segmentor."""
import re

from mmengine.registry import HOOKS

from ...datasets.built import is_kind
from ...datasets.masks import IGNORED, check_mask, check_masks
from ..unwrap import unwrapped
from .data_check import DataCheckHook, datasets_of, metrics_of

_HEAD = re.compile(r'(^|\.)decode_head(\.\d+)?$')


@HOOKS.register_module()
class MasksFitHook(DataCheckHook):
    """Checks that masks hold indices of classes: a sample before training, validation and testing, then each batch.

    The sample has 32 masks of each dataset, at equal distances, loaded as the dataset does (256 where these show one
    label only); that many were looked at is logged. Of masks outside of it, a label beyond the classes ends the run at
    their batch (below a millisecond a mask), with the name of the file: in training it would be "Target 6 is out of
    bounds" or a device-side assert, in the metric it is left out without a word.

    To switch it off under our own tools: ``default_hooks.masks_fit=None``.

    Raises:
        DataError: A mask has other labels than the classes, is one of colours, or has another size than its image; or
            the sample has nothing but one label and ignored pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self._batch = {}

    def check(self, runner, split: str) -> None:
        """Check a sample of one split."""
        kinds = [(dataset, data) for dataset, data in datasets_of(runner, split) if is_kind(dataset, 'BaseSegDataset')]
        ignored = _ignored(runner, split)
        for dataset, data in kinds:
            check_masks(dataset, data, ignored)
        self._batch[split] = kinds and dict(
            data=f'the {split} data', classes=kinds[0][0].metainfo.get('classes'), ignored=ignored,
            reduces_zero=bool(getattr(kinds[0][0], 'reduce_zero_label', False)))

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Check a batch."""
        self._check_batch(data_batch, 'train')

    def before_val_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Check a batch."""
        self._check_batch(data_batch, 'val')

    def before_test_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Check a batch."""
        self._check_batch(data_batch, 'test')

    def _check_batch(self, batch, split: str) -> None:
        settings = self._batch.get(split)
        samples = batch.get('data_samples') if settings and isinstance(batch, dict) else None
        for sample in samples if isinstance(samples, (list, tuple)) else ():
            truth = getattr(sample, 'gt_sem_seg', None)
            labels = getattr(truth, 'data', None)
            if labels is None or not settings['classes']:
                continue
            wrong = labels >= max(len(settings['classes']), 2)  # several times as fast as all labels
            for label in settings['ignored']:
                wrong &= labels != label
            if labels.ndim != 3 or labels.shape[0] != 1 or wrong.any():
                mask = labels[0] if labels.ndim == 3 and labels.shape[0] == 1 else labels
                path = sample.get('seg_map_path', sample.get('img_path', 'A mask'))
                check_mask(mask.cpu().numpy(), str(path), **settings)


def _ignored(runner, split: str) -> set[int]:
    """What the loss ignores, or the metric."""
    if split == 'train':
        owners = [module for name, module in unwrapped(runner.model).named_modules() if _HEAD.search(name)]
    else:
        owners = metrics_of(runner, split)
    found = {getattr(owner, 'ignore_index', None) for owner in owners}
    return {index for index in found if isinstance(index, int)} or {IGNORED}
