"""Masks of a segmentation dataset: their labels against its classes, their size against the image."""
from collections.abc import Collection
from typing import Any

import numpy as np
from PIL import Image

from ..utils.errors import DataError
from ..utils.logs import tell, warn
from .built import spread, transform_of

LIMIT = 32  # masks that are loaded
_MORE = 256  # where these show one label only
IGNORED = 255


def check_masks(dataset: Any, data: str, ignored: Collection[int] = (IGNORED, )) -> None:
    """Load a sample of masks as a dataset of mmseg does, and look at their labels.

    At how many it looked is logged, and a warning where they have one label only, or where images are turned in a way
    that keeps their size.

    Args:
        dataset: A built dataset of mmseg.
        data: Its name, for messages.
        ignored: Labels that the loss, or the metric, ignores.

    Raises:
        DataError: Naming the first mask with a label that is no class, or of another shape; or nothing can be learned.
    """
    load, load_image = transform_of(dataset, 'LoadAnnotations'), transform_of(dataset, 'LoadImageFromFile')
    classes = dataset.metainfo.get('classes')
    if load is None or not classes or not len(dataset):
        return
    seen, looked, turned = set(), 0, []
    first = spread(len(dataset), LIMIT)
    more = [index for index in spread(len(dataset), _MORE) if index not in set(first)]
    for index in first + more:
        if looked >= len(first) and len(seen - set(ignored)) > 1:
            break
        info = dataset.get_data_info(index)
        mask = _loaded(load, info)
        if mask is None:
            continue
        looked += 1
        path = info.get('seg_map_path')
        if mask.ndim == 2 and _check_size(path, mask, load_image, info):
            turned.append(info['img_path'])
        seen |= check_mask(mask, path, data, classes, ignored, bool(getattr(dataset, 'reduce_zero_label', False)))
        if looked <= len(first):
            _check_depth(path)
    if not looked:
        return
    sample = f'Looked at {looked} of {len(dataset)} masks of {data}'
    labels = sorted(map(int, seen - set(ignored)))
    if turned:
        warn(f'{sample}: {len(turned)} of their images, {turned[0]} for one, are turned or mirrored by their EXIF tag '
             'when they are loaded, in a way that keeps width and height; masks are not. Look whether they fit; where '
             "they do not, write color_type='color_ignore_orientation' in LoadImageFromFile of all datasets, or save "
             'the images turned.')
    tell(f'{sample}: they have {len(labels)} of its {len(classes)} labels.')
    if len(labels) < 2 <= len(classes):
        shown = ', '.join(map(str, sorted(map(int, seen))))
        if set(ignored) & seen or not labels:
            left = f'label {labels[0]} alone' if labels else 'nothing'
            raise DataError(
                f'{sample}: they have no values but {shown}, and {_or(ignored)} is ignored, so {left} would be '
                'learned. '
                f'Where {_or(ignored)} stands for a class, write its index (0 to {len(classes) - 1}) instead.')
        warn(f'{sample}: all are label {shown} ({classes[labels[0]]}) and nothing else. Check that the '
             'values of the classes are their indices.')


def check_mask(mask: np.ndarray, path: str, data: str, classes: Collection[str], ignored: Collection[int],
               reduces_zero: bool = False) -> set[int]:
    """Check the labels of one mask, as mmseg has loaded it.

    Args:
        mask: (H, W), integers.
        path: Its file, for the message.
        data: The dataset, for the message.
        classes: Names of the labels 0, 1, ...
        ignored: Labels beyond them that are allowed.
        reduces_zero: The dataset has ``reduce_zero_label=True``.

    Returns:
        The labels in it.

    Raises:
        DataError: It has more than one channel, or a label that is no class.
    """
    allowed = f'0 to {len(classes) - 1}, and {_or(ignored)} for what is ignored'
    if mask.ndim != 2:
        raise DataError(f'{path} of {data} has the shape {mask.shape}, so it is a mask of colours. Save masks with one '
                        f'channel of class indices, {allowed}: gray, or PNG with a palette.')
    labels = set(np.unique(mask).tolist())
    # mmseg's heads of one class tell 1 from 0
    surplus = sorted(label for label in labels - set(ignored) if not 0 <= label < max(len(classes), 2))
    if not surplus:
        return labels
    _check_depth(path)  # whose labels are not those in the file
    count = len(classes)
    if surplus == [count] and not reduces_zero:
        remedy = (f'If labels begin at 1 and 0 is no class, write reduce_zero_label=True in all datasets; if 0 is a '
                  f'class too, such as background, then put its name first in classes, and num_classes={count + 1}')
    else:
        remedy = 'Write the indices of the classes into the masks, or name all classes in metainfo and set num_classes'
    reduced = ' after reduce_zero_label=True has subtracted 1' if reduces_zero else ''
    raise DataError(f'{path} of {data} has the labels {_some(surplus)}{reduced}, but {count} classes have labels '
                    f'{allowed}. {remedy}.')


def _loaded(load: Any, info: dict) -> np.ndarray | None:
    try:
        results = load(dict(info, seg_fields=[]))
    except Exception:  # mm says itself what is wrong with a mask that cannot be loaded
        return None
    return (results or {}).get('gt_seg_map')


def _check_size(path: str, mask: np.ndarray, load_image: Any, info: dict) -> bool:
    """Against the image, which mmcv turns by its EXIF tag, and the mask not; whether it is turned to the same size."""
    try:
        with Image.open(info['img_path']) as image:
            size, tag = image.size, image.getexif().get(0x0112, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    if load_image is None or (size == mask.shape[::-1] and tag < 2):
        return False
    try:
        got = load_image(dict(info))['img'].shape[1::-1]
    except Exception:  # as for a mask
        return False
    if got != mask.shape[::-1]:
        turned = (": the image's EXIF tag turns it. Write color_type='color_ignore_orientation' in "
                  'LoadImageFromFile of all datasets, or save the image turned') \
            if tag > 4 and size == mask.shape[::-1] else \
            '. Save them in the same size, the mask resized without interpolation'
        raise DataError(f'{path} has {mask.shape[1]}x{mask.shape[0]} pixels (width x height), but '
                        f'{info["img_path"]} is loaded with {got[0]}x{got[1]}{turned}.')
    keeps_size = tag in (2, 3, 4) or (tag in (5, 6, 7, 8) and size == size[::-1])
    return keeps_size and getattr(load_image, 'color_type', 'color') in ('color', 'grayscale')


def _check_depth(path: str) -> None:
    """Of a file with more than eight bits, of which mmseg cuts off all but the lowest."""
    try:
        with Image.open(path) as image:
            extrema = image.getextrema() if image.mode.startswith(('I', 'F')) else None
    except (OSError, ValueError, SyntaxError, AttributeError):
        return
    if extrema and (extrema[0] < 0 or extrema[1] > 255):
        raise DataError(f'{path} has values from {extrema[0]} to {extrema[1]}, of which mmseg keeps the lowest eight '
                        'bits. Save masks with 8 bits, of class indices.')


def _or(values: Collection[int]) -> str:
    return ' or '.join(map(str, sorted(values))) or 'none'


def _some(labels: list[int]) -> str:
    return ', '.join(map(str, labels[:6])) + (f' and {len(labels) - 6} more' if len(labels) > 6 else '')
