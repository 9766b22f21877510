"""A hook that averages the statistics of norms over devices."""
from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook, SyncBuffersHook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SyncAveragedBuffersHook(SyncBuffersHook):
    """mmengine's SyncBuffersHook, extended to the averaged model of EMAHook.

    Without SyncBN each device has different statistics, and EMAHook averages them over time, not
    over devices; then the model that several devices validate is not the one that the first saves.
    """

    def after_train_epoch(self, runner) -> None:
        """Average the norms' statistics over devices."""
        super().after_train_epoch(runner)
        if self.distributed:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    all_reduce_params(hook.ema_model.buffers(), op='mean')
