"""Pictures of the user's own."""
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.utils import scandir

from ..utils.errors import DataError, MissingFileError

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def picture_files(folder: str | Path) -> list[Path]:
    """The pictures in a folder, sorted.

    Raises:
        MissingFileError: There is no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f'There is no folder {str(folder)!r}.')
    files = sorted(folder / name for name in scandir(folder, _SUFFIXES, case_sensitive=False))
    if not files:
        raise MissingFileError(f'There are no pictures (jpg, png, bmp, webp, tiff) in {str(folder)!r}.')
    return files


def load_picture(file: str | Path) -> np.ndarray | None:
    """A picture in BGR, (H, W, 3), uint8; None where it cannot be read."""
    try:
        return mmcv.imread(str(file))
    except (cv2.error, PermissionError):  # the former of an empty file
        return None


def read_picture(file: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """A picture as an exported graph takes it: RGB, resized to ``shape``, (1, 3, H, W), float32 from 0 to 255.

    Raises:
        DataError: It cannot be read.
    """
    picture = load_picture(file)
    if picture is None:
        raise DataError(f'Could not read {str(file)!r} as a picture. Remove it, or save it anew.')
    return mmcv.imresize(picture[..., ::-1], shape[::-1]).transpose(2, 0, 1)[None].astype(np.float32)
