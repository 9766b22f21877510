"""When mmengine is about to save a checkpoint."""
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner


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
