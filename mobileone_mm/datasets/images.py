"""Pictures of the user's own."""
from pathlib import Path

import cv2
import mmcv
import numpy as np

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def picture_files(folder: str | Path) -> list[Path]:
    """The pictures in a folder, sorted.

    Raises:
        FileNotFoundError: There is no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'There is no folder {str(folder)!r}.')
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise FileNotFoundError(f'There are no pictures (jpg, png, bmp, webp, tiff) in {str(folder)!r}.')
    return files


def load_picture(file: str | Path) -> np.ndarray | None:
    """A picture in BGR, (H, W, 3), uint8; None where OpenCV cannot read it."""
    try:
        return mmcv.imread(str(file))
    except cv2.error:  # of an empty file
        return None


def read_picture(file: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """A picture as an exported graph takes it: RGB, resized to ``shape``, (1, 3, H, W), float32 from 0 to 255.

    Raises:
        ValueError: It cannot be read.
    """
    picture = load_picture(file)
    if picture is None:
        raise ValueError(f'Could not read {str(file)!r} as a picture. Remove it, or save it anew.')
    return mmcv.imresize(picture[..., ::-1], shape[::-1]).transpose(2, 0, 1)[None].astype(np.float32)
