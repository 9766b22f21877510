"""A hook that keeps validation from changing the random numbers of training."""
import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class PreserveRandomStateHook(Hook):
    """Restores the random state of training after a validation.

    A validation ``DataLoader`` draws its workers' seed from torch's global generator. Without this
    hook, training after a validation would see other shuffles and augmentations than without it.
    """

    def before_val(self, runner) -> None:
        """Remember the state of Python's, NumPy's and torch's generators."""
        self._states = (random.getstate(), np.random.get_state(), torch.get_rng_state(),
                        torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])

    def after_val(self, runner) -> None:
        """Restore the state."""
        python, numpy, cpu, cuda = self._states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
