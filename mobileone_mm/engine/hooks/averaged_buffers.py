"""A hook that averages the statistics of norms over devices."""
from mmengine.dist import all_reduce_params
from mmengine.hooks import EMAHook, SyncBuffersHook
from mmengine.registry import HOOKS

from ..saving import saves_after_iter


@HOOKS.register_module()
class SyncAveragedBuffersHook(SyncBuffersHook):
    """mmengine's SyncBuffersHook, extended to the averaged model of EMAHook and to saved checkpoints.

    Without SyncBN each device has different statistics, and EMAHook averages them over time, not
    over devices; then the model that several devices validate is not the one that the first saves.
    Statistics are averaged at the end of an epoch, and under IterBasedTrainLoop, which has only
    one, before each validation and each checkpoint.
    """

    def before_val_epoch(self, runner) -> None:
        """Average the norms' statistics over devices, unless the epoch's end just did."""
        if self.distributed and not self.called_in_train:
            _average(runner)
        self.called_in_train = False

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Average them where a checkpoint follows."""
        if self.distributed and saves_after_iter(runner):
            _average(runner)

    def after_train_epoch(self, runner) -> None:
        """Average them, for a checkpoint and for a validation."""
        if self.distributed:
            _average(runner)
            self.called_in_train = True


def _average(runner) -> None:
    all_reduce_params(runner.model.buffers(), op='mean')
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            all_reduce_params(hook.ema_model.buffers(), op='mean')
