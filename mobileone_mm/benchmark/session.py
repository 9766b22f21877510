"""An exported file to be timed."""
from pathlib import Path

import numpy as np
import torch

from ..deploy.reader import ExportedFile
from .timing import settled_ms


class Session:
    """An exported file, opened by its runtime, with one image.

    Args:
        path: The file.
        image: (1, C, H, W), float32 from 0 to 255.
        threads: Of the runtime.
    """

    def __init__(self, path: Path, image: np.ndarray, threads: int):
        torch.set_num_threads(threads)  # which TorchScript takes
        self._file, self._image = ExportedFile(path, threads), image

    def answers(self) -> dict[str, np.ndarray]:
        """The outputs for the image."""
        return self._file(self._image)

    def time_ms(self) -> float:
        """Milliseconds of one call of the runtime."""
        return settled_ms(self.answers)
