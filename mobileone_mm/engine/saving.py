"""When mmengine is about to save a checkpoint."""
from difflib import get_close_matches
from inspect import signature

from mmengine.hooks import CheckpointHook
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
