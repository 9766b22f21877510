"""A hook that averages the statistics of norms over devices."""
from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook, SyncBuffersHook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SyncAveragedBuffersHook(SyncBuffersHook):
    """mmengine's SyncBuffersHook, also for the averaged model of EMAHook.

    Without SyncBN each device counts statistics of its own, and EMAHook averages those over time, not over devices;
    then what is validated on several devices is not what the first one saves.
    """

    def after_train_epoch(self, runner) -> None:
        """Average the norms' statistics over devices."""
        super().after_train_epoch(runner)
        if self.distributed:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    all_reduce_params(hook.ema_model.buffers(), op='mean')
