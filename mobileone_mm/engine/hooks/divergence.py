"""A hook that ends a training which has diverged."""
from collections.abc import Iterator
from itertools import chain
from math import isfinite

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from torch import Tensor

from ...utils.checks import check_int
from ...utils.errors import DivergenceError, some
from ..resuming import is_resuming, named_checkpoint
from ..saving import checkpoint_hooks, saves_after_iter
from ..unwrap import unwrapped


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Ends a training whose loss is NaN or infinite, before a checkpoint with NaN replaces a finite one.

    The loss is looked at after each iteration, the weights (also EMAHook's) before each checkpoint and each validation:
    the last step of the optimizer may have spoilt them after a loss that was still a number. Several devices end
    together, whichever of them it began on.

    With a loss scaler (``--amp``) gradients that overflow are usual: it leaves out that step and
    scales less. So is a loss that overflows now and then, which costs one step as well; such a
    training ends after ``patience`` of them in a row, or as soon as the weights are no numbers.

    It takes the place of mmdet's CheckInvalidLossHook. To switch it off under our own tools:
    ``default_hooks.divergence=None``.

    Args:
        interval: Look at the loss after so many iterations. Looking means waiting for the device; but mmengine's
            RuntimeInfoHook waits for each iteration's losses already, to log them, so that 1 costs nothing more.
        patience: See above.

    Raises:
        DivergenceError: Naming the iteration, the losses or weights, the LR, what to try, and the last checkpoint.
    """

    priority = 'BELOW_NORMAL'  # after the hooks that average over devices or over time, before those that save

    def __init__(self, interval: int = 1, patience: int = 10):
        self.interval = check_int('interval', interval, 1)
        self.patience = check_int('patience', patience, 1)
        self._trains = False

    def before_train(self, runner) -> None:
        """Remember what is infinite from the beginning, as masks of attention may be."""
        self._trains, self._skipped = True, 0
        self._given = set(_broken_tensors(runner))

    def after_train(self, runner) -> None:
        """From here on, there is no training to end."""
        self._trains = False

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Check the loss, and where a checkpoint follows, the weights."""
        if self.every_n_train_iters(runner, self.interval):
            self._check_loss(runner, outputs)
        if saves_after_iter(runner):
            self._check_weights(runner, runner.iter + 1)

    def after_train_epoch(self, runner) -> None:
        """Check the weights: a checkpoint may follow."""
        self._check_weights(runner, runner.iter)

    def before_val_epoch(self, runner) -> None:
        """Check the weights: the best checkpoint may follow."""
        if self._trains:
            self._check_weights(runner, runner.iter)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Check the weights where another hook saves. The first device is alone here."""
        if self._trains and (broken := self._broken(runner)):
            raise DivergenceError(_message(runner, f'{some(broken)} of the model hold NaN or infinity.'))

    def _check_loss(self, runner, outputs: dict | None) -> None:
        losses = {key: value for key, value in outputs.items() if 'loss' in key and _is_number(value)} \
            if isinstance(outputs, dict) else {}
        # mmengine's models give the sum of all as ``loss``: one number to read from the device instead of several.
        total = dict(loss=losses['loss']) if 'loss' in losses else losses
        broken = _not_finite(losses) if _not_finite(total) else {}
        if not _anywhere(bool(broken)):
            self._skipped = 0
            return
        if get_world_size() > 1:  # what other devices found; all of them are here
            broken = {key: value for found in all_gather_object(broken) for key, value in found.items()}
        self._skipped += 1
        found = f'The loss is no number at iteration {runner.iter + 1} ' \
                f'({", ".join(f"{key}: {value}" for key, value in broken.items())}).'
        if not _has_loss_scaler(runner) or self._skipped >= self.patience or _anywhere(bool(self._broken(runner))):
            raise DivergenceError(_message(runner, found))
        if self._skipped == 1:
            runner.logger.warning(f'{found} The loss scaler leaves out this step. The training ends after '
                                  f'{self.patience} of them in a row.')

    def _check_weights(self, runner, iteration: int) -> None:
        broken = self._broken(runner)
        if _anywhere(bool(broken)):
            names = f'{some(broken)} of the model' if broken else 'Weights on another device'
            raise DivergenceError(_message(runner, f'{names} hold NaN or infinity after iteration {iteration}.'))

    def _broken(self, runner) -> list[str]:
        return [name for name in _broken_tensors(runner) if name not in self._given]


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)


def _not_finite(losses: dict) -> dict[str, float]:
    values = {key: value.item() if isinstance(value, Tensor) else value for key, value in losses.items()}
    return {key: value for key, value in values.items() if not isfinite(value)}


def _anywhere(found: bool) -> bool:
    """Whether something was found on any device; all of them have to ask."""
    if get_world_size() == 1:
        return found
    flag = torch.tensor(int(found))
    all_reduce(flag, 'max')
    return bool(flag)


def _tensors(runner) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a run's model and of its averages."""
    models = [('', unwrapped(runner.model))]
    models += [('ema_model.', hook.ema_model) for hook in runner.hooks
               if isinstance(hook, EMAHook) and hasattr(hook, 'ema_model')]
    for prefix, model in models:
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            if tensor.is_floating_point() and not tensor.is_meta and not torch.nn.parameter.is_lazy(tensor):
                yield prefix + name, tensor.detach()


def _broken_tensors(runner) -> list[str]:
    """Names of the tensors with NaN or infinity, read from the device at once."""
    names, flags = [], []
    for name, tensor in _tensors(runner):
        names.append(name)
        flags.append(tensor.isfinite().all())
    if not flags:
        return []
    finite = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()
    return [name for name, good in zip(names, finite, strict=True) if not good]


def _optim_wrappers(runner) -> list:
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if hasattr(wrapper, 'values') else [wrapper]


def _has_loss_scaler(runner) -> bool:
    scalers = [getattr(wrapper, 'loss_scaler', None) for wrapper in _optim_wrappers(runner)]
    return any(scaler is not None and scaler.is_enabled() for scaler in scalers)


def _message(runner, found: str) -> str:
    wrappers = _optim_wrappers(runner)
    rate = max((group['lr'] for wrapper in wrappers for group in wrapper.param_groups), default=0.)
    clips = any(getattr(wrapper, 'clip_grad_kwargs', None) for wrapper in wrappers)
    remedies = ['a lower one (optim_wrapper.optimizer.lr)', 'a longer warm-up (LinearLR in param_scheduler)',
                'a smaller optim_wrapper.clip_grad.max_norm' if clips else
                'clipped gradients (optim_wrapper.clip_grad=dict(max_norm=10))']
    if _has_loss_scaler(runner):
        remedies.append('no --amp')
    saved = [hook.last_ckpt for hook in checkpoint_hooks(runner) if hook.last_ckpt]
    if not saved and is_resuming(runner) and (source := named_checkpoint(runner)):
        saved = [source]
    then = f'The last finite checkpoint is {saved[-1]!r}: load_from takes its weights only, --resume its LR as well.' \
        if saved else 'No checkpoint was saved before.'
    return f'{found} The LR is {rate:g}. Try {", ".join(remedies)}. {then}'
