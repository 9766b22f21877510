"""The user's own images."""
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.utils import scandir

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


def load_image(file: str | Path) -> np.ndarray | None:
    """An image in BGR, (H, W, 3), uint8; None where it cannot be read."""
    try:
        return mmcv.imread(str(file))
    except (cv2.error, PermissionError):  # the former of an empty file
        return None


def read_image(file: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """An image as an exported graph takes it: RGB, resized to ``shape``, (1, 3, H, W), float32 from 0 to 255.

    Raises:
        DataError: It cannot be read.
    """
    image = load_image(file)
    if image is None:
        raise DataError(f'Could not read {str(file)!r} as an image. Remove it, or save it again.')
    return mmcv.imresize(image[..., ::-1], shape[::-1]).transpose(2, 0, 1)[None].astype(np.float32)
