"""Hooks for mmengine's Runner: checks of checkpoints and classes, and norms and random numbers."""
import random
import re
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook, Hook, SyncBuffersHook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import BaseOptimWrapper
from mmengine.registry import HOOKS
from torch import nn

from ..block import MobileOneBlock
from ..checkpoint.fit import check_finite
from ..checkpoint.layouts import get_state_dict, without_module
from ..mobileone import MobileOne
from ..reparameterize import train_form_blocks
from ..utils.checks import check_int
from ..utils.errors import DataError
from .calibrate import calibrate_norms
from .fit import check_keys, fit_model

# Auxiliary heads are left out: they may have other classes, such as STDC's boundaries.
_HEAD = re.compile(r'(^|\.)(bbox_head|decode_head|head)(\.\d+)?$')


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without wrappers for several devices or for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def switch_alike(model: nn.Module, other: nn.Module) -> None:
    """Put those blocks of ``model`` into the deploy form that are in it in ``other``."""
    deployed = {name for name, module in other.named_modules() if isinstance(module, MobileOneBlock) and module.deploy}
    for name, block in list(train_form_blocks(model)):
        if name in deployed:
            block.switch_to_deploy()


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Refuses a whole model's checkpoint (``load_from``, ``--resume``, test) that does not fit.

    mmengine leaves out what does not fit, and only logs it. Models without a :class:`MobileOne` are
    not checked. On ``--resume``, EMAHook's separate weights are checked as well.

    In a test or a validation, each MobileOne for which the checkpoint has fused weights goes to the
    deploy form, whatever its config says; a training needs the branches, and refuses fused weights.

    Args:
        ignore: Beginnings of the keys that may be left out, such as ``bbox_head.cls_convs`` to
            start a detector of three classes from one of 80. They are logged, and keep their
            initial values.

    Raises:
        CheckpointError: Keys are missing, unexpected or of another shape, or not finite; the
            message lists them.
    """

    priority = 'VERY_HIGH'  # before EMAHook copies the weights

    def __init__(self, ignore: Sequence[str] = ()):
        self.ignore = (ignore, ) if isinstance(ignore, str) else tuple(ignore)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check the weights that were read; ignored keys get the model's values."""
        model = unwrapped(runner.model)
        if not any(isinstance(module, MobileOne) for module in model.modules()):
            return
        # A training builds its optimizer before it loads weights; it needs the branches.
        trains = isinstance(runner.optim_wrapper, BaseOptimWrapper)
        averages = [hook.ema_model.module for hook in runner.hooks
                    if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model')]
        # Under the key that other hooks and mmengine's own loading look for.
        weights = without_module(get_state_dict(checkpoint))
        checkpoint['state_dict'] = fit_model(weights, model, not trains, self.ignore)
        for average in averages:  # EMAHook's copies of the model, which load these weights too
            switch_alike(unwrapped(average), model)
        averaged = checkpoint.get('ema_state_dict')  # EMAHook's: the weights that training resumes from
        # There is no public way to ask whether a run resumes.
        if runner._resume and averaged is not None and averages:
            check_finite(averaged)
            check_keys(without_module({key: value for key, value in averaged.items() if key != 'steps'}),
                       model.state_dict(), type(model).__name__)


@HOOKS.register_module()
class NumClassesFitHook(Hook):
    """Refuses heads whose number of classes differs from the dataset's.

    They would end in a wrong index or in wrong metrics. Not checked are models without a
    :class:`MobileOne`, auxiliary heads, and datasets that do not name their classes or are
    panoptic. To switch it off under our own tools: ``default_hooks.num_classes_fit=None``.

    Raises:
        DataError: Naming the head, both numbers and the classes.
    """

    def before_train(self, runner) -> None:
        """Check the training data."""
        self._check(runner, 'train')

    def before_val(self, runner) -> None:
        """Check the validation data."""
        self._check(runner, 'val')

    def before_test(self, runner) -> None:
        """Check the test data."""
        self._check(runner, 'test')

    def _check(self, runner, split: str) -> None:
        model = unwrapped(runner.model)
        metainfo = getattr(getattr(runner, f'{split}_dataloader').dataset, 'metainfo', None) or {}
        classes = None if 'thing_classes' in metainfo else metainfo.get('classes')
        if classes is None or not any(isinstance(module, MobileOne) for module in model.modules()):
            return
        for name, module in model.named_modules():
            got = getattr(module, 'num_classes', None)
            # An RPN only separates objects from background, whatever the classes.
            if _HEAD.search(name) and got not in (None, len(classes)) and not type(module).__name__.endswith('RPNHead'):
                raise DataError(
                    f'model.{name}.num_classes is {got}, but the {split} data has {len(classes)} classes: '
                    f'{", ".join(map(str, classes[:6]))}{", ..." if len(classes) > 6 else ""}. Set the one to the '
                    'other: num_classes of all heads, or metainfo=dict(classes=(...)) of all datasets.')


@HOOKS.register_module()
class CalibrateNormsHook(Hook):
    """Before training, gives the backbone's norms the statistics of some training batches.

    For weights that were expanded from fused ones (``init_cfg=dict(type='Pretrained', expand=True,
    ...)``): see :func:`mobileone_mm.calibrate_norms`. A run that resumes skips it.

    Args:
        num_batches: Number of training batches, on each device.
    """

    def __init__(self, num_batches: int = 16):
        self.num_batches = check_int('num_batches', num_batches, 1)

    def before_train(self, runner) -> None:
        """Calibrate every MobileOne in the model."""
        if runner.iter > 0:
            return
        model = unwrapped(runner.model)
        backbones = [module for module in model.modules() if isinstance(module, MobileOne) and not module.deploy]
        for backbone in backbones:
            runner.logger.info(f'Calibrating the norms of MobileOne on {self.num_batches} batches')
            batches = islice(runner.train_dataloader, self.num_batches)
            calibrate_norms(backbone, (model.data_preprocessor(data, True)['inputs'] for data in batches))


@HOOKS.register_module()
class SyncAveragedBuffersHook(SyncBuffersHook):
    """mmengine's SyncBuffersHook, extended to the averaged model of EMAHook.

    Without SyncBN each device has different statistics, and EMAHook averages them over time, not
    over devices; then the model that several devices validate is not the one that the first device
    saves.
    """

    def after_train_epoch(self, runner) -> None:
        """Average the norms' statistics over devices."""
        super().after_train_epoch(runner)
        if self.distributed:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    all_reduce_params(hook.ema_model.buffers(), op='mean')


@HOOKS.register_module()
class PreserveRandomStateHook(Hook):
    """Makes validation leave the random state of training as it was.

    A validation ``DataLoader`` draws its workers' seed from torch's global generator. Without this
    hook, training after a validation would see other shuffles and augmentations than training
    without it.
    """

    def before_val(self, runner) -> None:
        """Remember the state of Python's, NumPy's and torch's generators."""
        self._states = (random.getstate(), np.random.get_state(), torch.get_rng_state(),
                        torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])

    def after_val(self, runner) -> None:
        """Restore it."""
        python, numpy, cpu, cuda = self._states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
