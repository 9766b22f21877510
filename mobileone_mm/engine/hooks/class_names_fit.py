"""A hook that compares the names of classes with those in the data."""
import inspect
import os.path as osp
from collections.abc import Iterator

from mmengine.registry import DATASETS, HOOKS

from ...datasets.built import is_coco
from ...datasets.check import datasets
from ...datasets.classes import check_encoding, check_folders, check_names, check_same_names, read_classes
from ...datasets.coco import read_categories
from ...utils.errors import DataError
from ...utils.logs import warn
from ...utils.types import resolve_type
from ..resuming import is_resuming
from .data_check import DataCheckHook, coco_of, datasets_of, metric_files, metrics_of


@HOOKS.register_module()
class ClassNamesFitHook(DataCheckHook):
    """Compares the names of classes, so that no label stands for another class than its name.

    mmdet's CocoDataset and CocoMetric number labels in the order in which the file lists its categories, whatever the
    order of ``metainfo.classes``, and pass over names that the file lacks. Compared are ``metainfo.classes`` with the
    categories of a COCO file, of the dataset and of the metric; with the folders of a dataset of mmpretrain; those of
    training and validation; and those of a checkpoint with the data that it is tested or trained on: another order is
    an error in a test and when a run resumes, and a warning with ``load_from``, whose last layer may be trained anew.
    Of a segmentor also ``reduce_zero_label``, in training and elsewhere. Of a COCO file only its categories are parsed
    (half a second for 450 MB).

    Not compared are masks, which have no names, and COCO files that are not on this machine's disks, which is logged.
    To switch it off under our own tools: ``default_hooks.class_names_fit=None``.

    Raises:
        DataError: A name is not in the data (with the nearest ones), or the order is another (with both); or one
            of training and evaluation has ``reduce_zero_label`` and the other not.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trained = None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the names that a checkpoint was trained with."""
        meta = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
        self._trained = next((meta[key] for key in ('classes', 'CLASSES') if meta.get(key)), None)

    def check(self, runner, split: str) -> None:
        """Check the names of one split."""
        classes = _classes(getattr(runner, f'{split}_dataloader').dataset, f'the {split} data')
        for dataset, data in datasets_of(runner, split):
            own = _classes(dataset, data)
            if own and is_coco(dataset):
                _check_coco(dataset, own, f'the {split} data')
            elif own and hasattr(dataset, 'folder_to_idx') and not hasattr(dataset, 'split'):
                check_folders(own, sorted(dataset.folder_to_idx, key=dataset.folder_to_idx.get), data)
        for metric, file in zip(metrics_of(runner, split), metric_files(runner, split), strict=True):
            coco = coco_of(metric)
            if classes and coco is not None:
                names = {category['id']: category['name'] for category in coco.loadCats(coco.getCatIds())}
                if file and osp.isfile(file):
                    check_encoding(_names(file), names, file)
                found = [names[id_] for id_ in coco.getCatIds(catNms=classes)]
                check_names(classes, found, list(names.values()), f'the {split} data',
                            file or f"{split}_evaluator's ann_file")
        if split == 'val' and 'train' in self._checked:
            trained = _classes(runner.train_dataloader.dataset, 'the train data')
            self._compare(trained, classes, 'The train data', 'the val data')
        elif split == 'train' and self._trained is not None:
            self._compare_start(runner, classes)
        elif split == 'test' and self._trained is not None:
            self._compare(self._trained, classes, 'The checkpoint', 'the test data')
        if split != 'train':
            _check_zero_label(runner, split)

    def _compare(self, trained, classes, data: str, other_data: str) -> None:
        if trained and classes and not isinstance(trained, str):
            check_same_names(trained, classes, data, other_data)

    def _compare_start(self, runner, classes) -> None:
        try:
            self._compare(self._trained, classes, 'The checkpoint', 'the train data')
        except DataError as error:
            if is_resuming(runner):
                raise
            warn(str(error))


def _check_zero_label(runner, split: str) -> None:
    """By which mmseg subtracts 1 from all labels of a dataset."""
    trained = set(_zero_labels_of_config(getattr(runner, 'cfg', None) or {}, 'train'))
    found = {bool(dataset.reduce_zero_label) for dataset, _ in datasets_of(runner, split)
             if hasattr(dataset, 'reduce_zero_label')}
    # Of a mixture, parts may have masks of their own kind each.
    if len(trained) == len(found) == 1 and trained != found:
        raise DataError(f'The train data has reduce_zero_label={trained.pop()} and the {split} data '
                        f'reduce_zero_label={found.pop()}, so labels mean different things. Write the same in all '
                        'datasets; where their masks do differ, go on with --cfg-options '
                        'default_hooks.class_names_fit=None')


def _zero_labels_of_config(cfg, split: str) -> Iterator[bool]:
    """From the config, as the training data is not built for a test; by default, as the class says."""
    loader = cfg.get(f'{split}_dataloader')
    for dataset in datasets(loader['dataset']) if isinstance(loader, dict) and 'dataset' in loader else ():
        kind = resolve_type(dataset, DATASETS, cfg.get('default_scope'))
        arguments = [inspect.signature(each.__init__).parameters for each in getattr(kind, '__mro__', ())]
        defaults = [each['reduce_zero_label'].default for each in arguments if 'reduce_zero_label' in each]
        if defaults:
            yield bool(dataset.get('reduce_zero_label', defaults[0]))


def _check_coco(dataset, classes: list[str], data: str) -> None:
    if not osp.isfile(dataset.ann_file):
        warn(f"The names of classes were not compared with {dataset.ann_file}, which is not on this machine's disks.")
        return
    names = _names(dataset.ann_file)
    # The dataset has dropped pycocotools' object, and knows just the ids of the names that were found in it.
    lost = [name for id_, name in names.items() if name in classes and id_ not in dataset.cat_ids]
    if lost and not all(name.isascii() for name in lost):
        coco = dataset.COCOAPI(dataset.ann_file)
        check_encoding(names, {id_: coco.cats[id_]['name'] for id_ in coco.cats}, dataset.ann_file)
    check_names(classes, [names.get(id_) for id_ in dataset.cat_ids], list(names.values()), data, dataset.ann_file)


def _names(file: str) -> dict:
    return {category['id']: category['name'] for category in read_categories(file)}


def _classes(dataset, data: str) -> list[str] | None:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    return None if classes is None else read_classes(classes, data)
