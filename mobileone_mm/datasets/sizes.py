"""Sizes of images: as the annotation file says, and as they are loaded."""
import os.path as osp
from typing import Any

from PIL import Image

from ..utils.errors import DataError
from ..utils.logs import tell, warn
from .built import spread, transform_of

LIMIT = 200  # images of which the header is read, for the size and the EXIF tag
_LOADED = 10  # of those with a reason, at most so many are loaded as the dataset does
_ORIENTATION = 0x0112


def check_sizes(dataset: Any, data: str) -> None:
    """Compare the width and height in a COCO file with its images, as the dataset loads them.

    mmcv turns images by their EXIF tag. Boxes that were drawn on the stored pixels do not turn with them.
    At how many images it looked is logged, and a warning where sizes cannot tell.

    Args:
        dataset: A built dataset whose infos have ``img_path``, ``width`` and ``height``.
        data: Its name, for messages.

    Raises:
        DataError: Naming the first image of another size.
    """
    load = transform_of(dataset, 'LoadImageFromFile')
    indices = spread(len(dataset), LIMIT)
    looked, tagged, loaded, undecided = 0, 0, 0, []
    mismatch = None
    for index in indices:
        info = dataset.get_data_info(index)
        header = _header(info.get('img_path'))
        if load is None or header is None or 'width' not in info:
            continue
        looked += 1
        size, orientation = header
        said = info['width'], info['height']
        tagged += orientation > 1
        if (orientation > 1 and said == size[::-1] == size) or orientation in (2, 3, 4):
            undecided.append(osp.basename(info['img_path']))
        if mismatch is None and loaded < _LOADED and (said != size or orientation > 4):
            loaded += 1
            got = _loaded_size(load, info)
            if got is not None and got != said:
                mismatch = info['img_path'], got, said, size, orientation
    sample = f'Looked at the sizes of {looked} of {len(dataset)} images of {data}'
    if mismatch is not None:
        raise DataError(_mismatch(*mismatch, data) + f' ({sample}; {tagged} have an EXIF tag of orientation.)')
    if looked:
        tell(f'{sample}: they are those in its annotations.')
    if undecided and getattr(load, 'color_type', 'color') in ('color', 'grayscale'):
        warn(f'{len(undecided)} of these, {undecided[0]} for one, are turned or mirrored by their EXIF tag when '
             'they are loaded, in a way that keeps width and height. Look whether their boxes fit; where they '
             "do not, write color_type='color_ignore_orientation' in LoadImageFromFile.")


def _header(path: Any) -> tuple[tuple[int, int], int] | None:
    """Width and height as stored, and the EXIF orientation; None where only mm can read it, or find it missing."""
    if not isinstance(path, str) or not osp.isfile(path):
        return None
    try:
        with Image.open(path) as image:
            return image.size, image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _loaded_size(load: Any, info: dict) -> tuple[int, int] | None:
    try:
        results = load(dict(info))
    except Exception:  # mm says itself what is wrong with an image that cannot be loaded
        return None
    return None if results is None else results['img'].shape[1::-1]


def _mismatch(path: str, got: tuple, said: tuple, stored: tuple, orientation: int, data: str) -> str:
    text = (f'{path} is loaded as {_size(got)} (width x height), but the annotations of {data} say {_size(said)}')
    if orientation > 4 and said == stored:
        return (f'{text}: its EXIF tag turns it, and its boxes were drawn on the stored pixels. Write '
                "dict(type='LoadImageFromFile', color_type='color_ignore_orientation') in the pipelines of all "
                'datasets, or save the images turned and draw the boxes on these.')
    if orientation > 4 and said == stored[::-1]:
        return (f'{text}: its boxes were drawn on the image as its EXIF tag turns it, and the pipeline does not turn '
                "it. Leave color_type out of LoadImageFromFile, and use imdecode_backend='cv2' or 'pillow'.")
    return (f'{text}. Correct width and height there; where the images were resized, the boxes too. mm cuts boxes at '
            'this size.')


def _size(size: tuple) -> str:
    return f'{size[0]}x{size[1]}'
