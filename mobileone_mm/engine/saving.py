"""When mmengine is about to save a checkpoint."""
import os.path as osp
from difflib import get_close_matches
from inspect import signature

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from ..utils.errors import ConfigError


def checkpoint_hooks(runner: Runner) -> list[CheckpointHook]:
    """The hooks of a run that save checkpoints."""
    return [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]


def saves_after_iter(runner: Runner) -> bool:
    """Whether a checkpoint is saved at the end of ``after_train_iter`` of this iteration, as iteration-based runs do.

    The answer is the same on all devices, so that they can do something together before.
    """
    return any(hook.every_n_train_iters(runner, hook.interval, hook.save_begin) or
               (hook.save_last and hook.is_last_train_iter(runner))
               for hook in checkpoint_hooks(runner) if not hook.by_epoch)


def check_checkpoint_hooks(runner: Runner) -> None:
    """Check the arguments of CheckpointHook, which takes any, and only fails when it saves for the first time.

    The metrics of ``save_best`` have no names before the first validation; a hook compares them then.

    Raises:
        ConfigError: One of them is neither its own nor of ``Runner.save_checkpoint``, to which it hands on the rest.
    """
    for hook in checkpoint_hooks(runner):
        own = set(signature(CheckpointHook.__init__).parameters) - {'self', 'kwargs'}
        for name in sorted(set(hook.args) - set(signature(runner.save_checkpoint).parameters)):
            near = get_close_matches(name, own, 1)
            guess = f' Did you mean {near[0]!r}?' if near else ''
            raise ConfigError(f'default_hooks.checkpoint (CheckpointHook) takes no {name!r}.{guess} It takes '
                              f'{", ".join(sorted(own))}.')
    if any(hook.save_best for hook in checkpoint_hooks(runner)):
        runner.register_hook(_BestMetricHook(), 'LOW')  # before CheckpointHook


class _BestMetricHook(Hook):
    """Ends a run whose ``save_best`` is no metric, where CheckpointHook would end in a KeyError; saves it before."""

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        """Compare the names."""
        for hook in checkpoint_hooks(runner):
            names = hook.key_indicators if hook.save_best and hook.out_dir is not None and metrics else []
            missing = [name for name in names if name not in (*metrics, 'auto')]
            if missing:
                near = get_close_matches(missing[0], metrics, 1)
                guess = f' Did you mean {near[0]!r}?' if near else ''
                raise ConfigError(
                    f'default_hooks.checkpoint.save_best is {missing[0]!r}, and validation gives no metric of that '
                    f'name.{guess} It gives {", ".join(metrics)}. Nothing is lost: {_save(hook, runner)!r} is '
                    'complete. Correct save_best, and go on from it with --resume.')


def _save(hook: CheckpointHook, runner: Runner) -> str:
    """Save a checkpoint of this step, unless it has been; returns its path."""
    step = runner.epoch if hook.by_epoch else runner.iter
    path = osp.join(hook.out_dir, hook.filename_tmpl.format(step))
    if hook.last_ckpt != path:
        hook._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))
    return path
