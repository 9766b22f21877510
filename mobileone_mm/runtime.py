"""What a run needs of mmengine beside the model: atomic files, and validation without side effects."""
import os
import random
from pathlib import Path

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend, whose files appear complete or not at all.

    Written beside their place and moved there, so neither a full disk nor ``kill -9`` leaves half a file, and
    a file that was there before stays until its successor is complete.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a path, creating its folder."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'.{path.name}.part')
        try:
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


register_backend('atomic_local', AtomicLocalBackend, force=True)


@HOOKS.register_module()
class PreserveRandomStateHook(Hook):
    """Gives validation random numbers of its own.

    A validation ``DataLoader`` draws its workers' seed from torch's global generator, so that training after a
    validation would see other shuffles and augmentations than training without it.
    """

    def before_val(self, runner) -> None:
        """Remember the state of Python's, NumPy's and torch's generators."""
        self._states = (random.getstate(), np.random.get_state(), torch.get_rng_state(),
                        torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])

    def after_val(self, runner) -> None:
        """Put it back."""
        python, numpy, cpu, cuda = self._states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
