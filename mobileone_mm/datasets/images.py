"""The user's own images."""
from collections.abc import Iterator
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.utils import scandir
from rich.progress import track

from ..utils.errors import DataError, MissingFileError

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def image_files(folder: str | Path) -> list[Path]:
    """The images in a folder, sorted.

    Raises:
        MissingFileError: There is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f'There is no folder {str(folder)!r}.')
    files = sorted(folder / name for name in scandir(folder, _SUFFIXES, case_sensitive=False))
    if not files:
        raise MissingFileError(f'There are no images (jpg, png, bmp, webp, tiff) in {str(folder)!r}.')
    return files


def load_image(file: str | Path, color_type: str = 'color') -> np.ndarray | None:
    """An image in BGR, (H, W, 3), uint8, or as mmcv's other color types have it; None where it cannot be read."""
    try:
        return mmcv.imread(str(file), color_type)
    except (cv2.error, PermissionError):  # the former of an empty file
        return None


def read_image(file: str | Path, shape: tuple[int, int], channels: int = 3) -> np.ndarray:
    """An image as an exported graph takes it: resized to ``shape``, (1, C, H, W), float32 from 0 to 255.

    Args:
        file: The image.
        shape: Height and width.
        channels: Number of channels: 3 are RGB, 1 is gray, others are those of the file, as OpenCV reads them.

    Raises:
        DataError: It cannot be read, or has another number of channels.
    """
    image = load_image(file, {1: 'grayscale', 3: 'color'}.get(channels, 'unchanged'))
    if image is None:
        raise DataError(f'Could not read {str(file)!r} as an image. Remove it, or save it again.')
    image = mmcv.imresize(image, shape[::-1])
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] != channels:
        raise DataError(f'The model takes images of {channels} channels, and {str(file)!r} has {image.shape[2]}. '
                        'Remove it, or save it with that many.')
    image = image[..., ::-1] if channels == 3 else image
    return image.transpose(2, 0, 1)[None].astype(np.float32)


def read_images(folder: str | Path, shape: tuple[int, int], channels: int = 3) -> Iterator[np.ndarray]:
    """All images of a folder, one after the other, as :func:`.read_image` reads them; shows its progress."""
    for file in track(image_files(folder), 'Reading images'):
        yield read_image(file, shape, channels)
