"""A hook that refuses checkpoints that do not fit the model."""
from collections.abc import Sequence

from mmengine.hooks import EMAHook, Hook
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import HOOKS

from ...checkpoint.fit import check_finite, shapes
from ...checkpoint.layouts import get_state_dict, without_module
from ...mobileone import MobileOne
from ...reparameterize import train_form_blocks
from ...utils.errors import CheckpointError
from ..fit import check_keys, fit_model, switch_blocks
from ..resuming import is_resuming
from ..unwrap import unwrapped


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Refuses a whole model's checkpoint (``load_from``, ``--resume``, test) that does not fit.

    mmengine leaves out what does not fit, and only logs it. Models without a :class:`.MobileOne` are
    not checked. On ``--resume``, EMAHook's separate weights are checked as well.

    In a test or a validation, each block for which the checkpoint has fused weights goes to the
    deploy form, whatever the config says; a training needs the branches, and refuses fused weights.

    Args:
        ignore: Beginnings of the keys that may be left out, such as ``bbox_head.cls_convs`` to
            start a detector of three classes from one of 80. They are logged, and keep their
            initial values.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape, or not finite; the
            message lists them.
    """

    priority = 'HIGHEST'  # before EMAHook, which loads the weights into its copy of the model

    def __init__(self, ignore: Sequence[str] = ()):
        self.ignore = (ignore, ) if isinstance(ignore, str) else tuple(ignore)
        self._switched = self._trained = False

    def before_train(self, runner) -> None:
        """Refuse to train a model that went to the deploy form for a test by the same Runner."""
        if self._switched:
            raise CheckpointError('This Runner has tested fused weights, for which its model went to the deploy form, '
                                  'without the branches that a training needs. Build a new Runner to train.')

    def after_train(self, runner) -> None:
        """Weights that are loaded from here on are for a test."""
        self._trained = True

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check the weights that were read; ignored keys get the model's values."""
        model = unwrapped(runner.model)
        if not any(isinstance(module, MobileOne) for module in model.modules()):
            return
        # A training builds its optimizer before it loads weights; it needs the branches.
        trains = isinstance(runner.optim_wrapper, BaseOptimWrapper) and not self._trained
        averages = [hook.ema_model.module for hook in runner.hooks
                    if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model')]
        # Under the key that other hooks and mmengine's own loading look for.
        weights = without_module(get_state_dict(checkpoint))
        branched = len(list(train_form_blocks(model)))
        checkpoint['state_dict'] = fit_model(weights, model, not trains, self.ignore)
        self._switched |= len(list(train_form_blocks(model))) < branched
        for average in averages:  # EMAHook's copies of the model, which load these weights too
            switch_blocks(unwrapped(average), checkpoint['state_dict'])
        averaged = checkpoint.get('ema_state_dict')  # EMAHook's: the weights that training resumes from
        if is_resuming(runner) and averaged is not None and averages:
            check_finite(averaged)
            check_keys(without_module({key: value for key, value in averaged.items() if key != 'steps'}),
                       shapes(model.state_dict()), type(model).__name__)
