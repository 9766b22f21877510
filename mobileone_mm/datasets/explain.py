"""The annotations of a config: why mm could not build its datasets, and those of datasets that it does not build."""
import os.path as osp
from collections.abc import Collection, Iterator

from mmengine.config import Config
from mmengine.registry import DATASETS

from ..utils.errors import DataError
from ..utils.types import resolve_type, type_name
from .built import is_coco_class
from .check import datasets, evaluators
from .classes import check_available, check_names, config_classes
from .coco import check_entries, read_categories, read_coco

_PALETTE = 'palette does not match classes'  # as mmseg's datasets begin to say it


def explain_annotations(cfg: Config, splits: tuple[str, ...], cause: Exception) -> None:
    """Look for what mm stumbled over in the annotations of a config. It costs nothing where nothing failed.

    Args:
        cfg: A whole config.
        splits: Which datasets and evaluators: ``train``, ``val``, ``test``.
        cause: What mm raised.

    Raises:
        DataError: Naming the file and entry, the names that a dataset does not have, a palette of another length, or
            that no image is left.
    """
    # What mmengine's BaseDataset says when it keeps the list of its images.
    no_images = isinstance(cause, ValueError) and str(cause) == 'need at least one array to concatenate'
    try:
        for split in splits:
            for file in _coco_files(cfg, split):
                check_entries(read_coco(file), file)
            for dataset in _datasets(cfg, split):
                _check_names(cfg, dataset, no_images)
                if isinstance(cause, ValueError) and str(cause).startswith(_PALETTE):
                    _check_palette(cfg, dataset)
        if no_images:
            raise DataError("No images are left of a dataset's annotations. Check ann_file, filter_cfg, and that "
                            "metainfo['classes'] are the names in the annotations.")
    except DataError as error:
        raise error from cause


def check_unbuilt(cfg: Config, split: str, max_megabytes: float, but: Collection[str]) -> None:
    """Check the COCO files of a split that this run does not build, such as those of testing while training.

    Args:
        cfg: A whole config.
        split: ``train``, ``val`` or ``test``.
        max_megabytes: Larger files are not read.
        but: Files, as absolute paths, that are checked already.

    Raises:
        DataError: Naming the file and the entry, or the names and orders of classes that differ.
    """
    for file in _coco_files(cfg, split):
        if osp.abspath(file) not in but and osp.getsize(file) <= max_megabytes * 1e6:
            check_entries(read_coco(file), file)
    for dataset in _datasets(cfg, split):
        kind, file = _kind(cfg, dataset), _ann_file(dataset)
        classes = config_classes(dataset) or getattr(kind, 'METAINFO', {}).get('classes')
        if classes and is_coco_class(kind) and file and osp.isfile(file) and osp.abspath(file) not in but:
            names = [category['name'] for category in read_categories(file)]
            check_names(classes, [name for name in names if name in classes], names, f'the {split} data', file)


def _check_names(cfg: Config, dataset: dict, no_images: bool) -> None:
    kind = _kind(cfg, dataset)
    own = getattr(kind, 'METAINFO', {}).get('classes')
    classes, file = config_classes(dataset) or own, _ann_file(dataset)
    if not classes:
        return
    if no_images and is_coco_class(kind) and file and osp.isfile(file):
        check_available(classes, [category['name'] for category in read_categories(file)], kind.__name__, file)
    elif own and hasattr(kind, 'get_label_map'):  # mmseg's, which take some classes of their own
        check_available(classes, own, kind.__name__, 'its METAINFO')


def _check_palette(cfg: Config, dataset: dict) -> None:
    own = getattr(_kind(cfg, dataset), 'METAINFO', {})
    classes = config_classes(dataset) or own.get('classes') or ()
    palette = (dataset.get('metainfo') or {}).get('palette', own.get('palette')) or ()
    if palette and len(palette) != len(classes):
        raise DataError(f'The metainfo of {type_name(dataset)} has {len(classes)} classes and a palette of '
                        f'{len(palette)} colours. Write a palette with a colour for each class beside classes, or '
                        'palette=None for random ones, in the metainfo of all datasets.')


def _coco_files(cfg: Config, split: str) -> Iterator[str]:
    files = [_ann_file(dataset) for dataset in _datasets(cfg, split) if is_coco_class(_kind(cfg, dataset))]
    for evaluator in evaluators(cfg, split):
        if type_name(evaluator) == 'CocoMetric':
            files.append(evaluator.get('ann_file'))
    for file in dict.fromkeys(files):
        if file and osp.isfile(file):
            yield file


def _datasets(cfg: Config, split: str) -> Iterator[dict]:
    loader = cfg.get(f'{split}_dataloader') or {}
    return datasets(loader['dataset']) if 'dataset' in loader else iter(())


def _ann_file(dataset: dict) -> str | None:
    file = dataset.get('ann_file')
    return osp.join(dataset.get('data_root') or '', file) if isinstance(file, str) and file else None


def _kind(cfg: Config, dataset: dict) -> type | None:
    return resolve_type(dataset, DATASETS, cfg.get('default_scope'))
