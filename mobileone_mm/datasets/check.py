"""Datasets: found before anything else starts, or an error that says what to do."""
import os
import os.path as osp
import re
from collections.abc import Iterator

from mmengine.config import Config

from ..utils.errors import MissingDataError
from ..utils.types import task_library, type_name
from .classes import config_classes

_HOW_TO = {
    'COCO_ROOT': 'Get COCO 2017 (train2017, val2017, annotations) from https://cocodataset.org, and set COCO_ROOT to '
                 'its folder.',
    'VOC_ROOT': 'Get VOC 2012 (VOCtrainval_11-May-2012) from http://host.robots.ox.ac.uk/pascal/VOC/voc2012 and SBD '
                "from http://home.bharathh.info/pubs/codes/SBD, make SegmentationClassAug and aug.txt with mmseg's "
                'tools/dataset_converters/voc_aug.py, and set VOC_ROOT to the folder VOC2012.',
    'ADE_ROOT': 'Get ADEChallengeData2016 from http://sceneparsing.csail.mit.edu, and set ADE_ROOT to its folder.',
    'IN1K_ROOT': 'Get ILSVRC2012 from https://image-net.org: train and val, in each a folder for each of the 1000 '
                 'classes, by its synset (n01440764, ...); or meta/train.txt and meta/val.txt beside them with the '
                 'lines FILE CLASS_INDEX, as val comes without folders. Set IN1K_ROOT to the folder of all.',
    'SHAPES_ROOT': 'Draw it: python tools/make_shapes.py data/shapes, or set SHAPES_ROOT to where it lies. What an '
                   'earlier version drew must be removed first.',
}
_EMBEDDED = {
    'mmdet': 'configs/detection/ssdlite_mobileone_s2_shapes.py',
    'mmseg': 'configs/segmentation/deeplabv3_mobileone_s2_shapes.py',
    'mmpretrain': 'configs/pretraining/mobileone_s2_shapes.py',
}
ROOT_VARIABLES = tuple(_HOW_TO)


def datasets(config: dict) -> Iterator[dict]:
    """The datasets in a dataset config, without wrappers such as RepeatDataset and ConcatDataset.

    There are none in what is no config, but a dataset that is built already.
    """
    if not isinstance(config, dict):
        return
    inner = config.get('dataset') or config.get('datasets')
    if inner is None:
        yield config
    else:
        for dataset in inner if isinstance(inner, (list, tuple)) else [inner]:
            yield from datasets(dataset)


def evaluators(cfg: Config, split: str) -> list[dict]:
    """The metrics of a split, as a config names them: one, several, or none."""
    found = cfg.get(f'{split}_evaluator') or []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _paths(dataset: dict) -> Iterator[str]:
    """What a dataset reads: its annotation file and its folders, as mmengine's BaseDataset joins them."""
    root = dataset.get('data_root') or ''
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):
        prefixes = dict(img_path=prefixes)
    # mmpretrain's ImageNet takes its folder from the split.
    for path in [dataset.get('ann_file'), *(prefixes or dict(img_path=dataset.get('split'))).values()]:
        if isinstance(path, str) and '://' not in osp.join(root, path) and path:
            yield osp.join(root, path)


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the files and folders of a config's datasets exist, and that none is empty.

    Args:
        cfg: A whole config.
        splits: Which dataloaders: ``train``, ``val``, ``test``.

    Raises:
        DataError: The classes of a dataset are a text that is no file.
        MissingDataError: Naming what was looked for, where, and the remedies.
    """
    loaders = filter(None, (cfg.get(f'{split}_dataloader') for split in splits))
    sources = [dataset for loader in loaders for dataset in datasets(loader['dataset'])]
    for dataset in sources:
        config_classes(dataset)
    wanted = [path for dataset in sources for path in _paths(dataset)]
    for split in splits:
        for evaluator in evaluators(cfg, split):
            if evaluator.get('ann_file'):
                wanted.append(evaluator['ann_file'])
    missing = [f'{osp.abspath(path)}{" (empty)" if osp.exists(path) else ""}' for path in dict.fromkeys(wanted)
               if not osp.exists(path) or _is_empty(path)]
    missing = missing or [problem for dataset in sources for problem in _imagenet_problems(dataset)]
    if not missing:
        return
    lines = [f'The data of {osp.basename(cfg.filename or "this config")} is not there. Looked for']
    lines += [f'  {problem}' for problem in dict.fromkeys(missing)]
    roots = _roots(cfg, missing)
    for name in roots:
        value = os.environ.get(name)
        lines.append(f'{name} is {value!r}.' if value else f'{name} is not set, so its default was used.')
        lines.append(_HOW_TO[name])
    embedded = _EMBEDDED.get(task_library(cfg))
    if embedded and 'SHAPES_ROOT' not in roots:
        lines.append(f'Or try the embedded default, which needs no download: python tools/make_shapes.py data/shapes '
                     f'&& python tools/train.py {embedded}')
    raise MissingDataError('\n'.join(lines))


def _roots(cfg: Config, missing: list[str]) -> list[str]:
    """Environment variables of a config, and of its bases, below whose folders something is missing."""
    folders = {}
    for name, default in re.findall(r'\{\{\$(\w+):([^}]*)\}\}', cfg.text):
        folders[name] = osp.join(osp.abspath(os.environ.get(name) or default), '')
    return [name for name in _HOW_TO if name in folders and any(folders[name] in problem for problem in missing)]


def _imagenet_problems(dataset: dict) -> Iterator[str]:
    """What mmpretrain's ImageNet would stumble over, or give other class indices to."""
    if type_name(dataset) != 'ImageNet' or not dataset.get('split'):
        return
    root, split = dataset.get('data_root') or '', dataset['split']
    prefix = dataset.get('data_prefix') or split  # which goes before the split, as there
    prefix = prefix.get('img_path', '') if isinstance(prefix, dict) else prefix
    folder, listed = osp.join(root, prefix), osp.join(root, 'meta', f'{split}.txt')
    if osp.isfile(listed):
        with open(listed, encoding='utf-8') as file:
            name = (file.readline().rsplit(maxsplit=1) or [''])[0]
        if not osp.isfile(osp.join(folder, name)):
            yield f'{osp.abspath(osp.join(folder, name))}, the first of {listed}'
    elif not dataset.get('metainfo'):
        folders = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
        synsets = len([name for name in folders if re.fullmatch(r'n\d{8}', name)])
        if synsets != 1000 or len(folders) != 1000:
            yield (f'1000 folders such as n01440764 in {osp.abspath(folder)}, which has {synsets} of them and '
                   f'{len(folders) - synsets} others; nor is there {listed}')


def _is_empty(path: str) -> bool:
    if not osp.isdir(path):
        return osp.getsize(path) == 0
    with os.scandir(path) as entries:
        return next(entries, None) is None
