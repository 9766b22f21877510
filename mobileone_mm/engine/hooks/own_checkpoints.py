"""A hook that keeps a resumed run from deleting the checkpoints of another one."""
import os.path as osp

from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint

from ..resuming import is_resuming, named_checkpoint
from ..saving import checkpoint_hooks


@HOOKS.register_module()
class OwnCheckpointsHook(Hook):
    """Lets a run delete checkpoints of its own work dir only.

    A checkpoint holds the path of the best one so far, which mmengine's CheckpointHook deletes as
    soon as there is a better one. When a run is resumed in another work dir, or in a copied one,
    that is a file of the other run. Here it is forgotten; in a copied or moved work dir it becomes
    the file of the same name in there. The best score stays: a checkpoint is saved as the best one
    if it is better than all of the training, before and after.

    To switch it off under our own tools: ``default_hooks.own_checkpoints=None``.
    """

    def before_train(self, runner) -> None:
        """Rewrite what mmengine's message hub took from the checkpoint, before CheckpointHook reads it."""
        if not is_resuming(runner):
            return
        hub = runner.message_hub
        folders = [_folder(hook, runner) for hook in checkpoint_hooks(runner)]
        source = named_checkpoint(runner) or find_latest_checkpoint(runner.work_dir)
        own = bool(source) and _is_in(source, folders)  # also one that was moved or copied
        for key, path in list(hub.runtime_info.items()):
            if not key.startswith(('best_ckpt', 'last_ckpt')) or not isinstance(path, str) or _is_in(path, folders):
                continue
            copies = [osp.join(folder, osp.basename(path)) for folder in folders] if own else []
            copy = next(filter(osp.isfile, copies), None)
            if copy is not None:
                hub.update_info(key, copy)
                continue
            hub.pop_info(key)
            if key.startswith('best_ckpt'):
                score = hub.runtime_info.get(key.replace('best_ckpt', 'best_score', 1))
                runner.logger.info(f'The best checkpoint so far ({score}) is that of another folder, {path!r}, and '
                                   'stays there. This run saves one of its own when it is better.')
        if not own:
            hub.pop_info('keep_ckpt_ids', None)  # numbers of files that lie elsewhere


def _folder(hook: CheckpointHook, runner: Runner) -> str:
    """Where a CheckpointHook will save, which it finds out later, in ``before_train``."""
    if hook.out_dir is None or hook.out_dir == runner.work_dir:
        return runner.work_dir
    return osp.join(hook.out_dir, osp.basename(runner.work_dir.rstrip(osp.sep)))


def _is_in(path: str, folders: list[str]) -> bool:
    return osp.realpath(osp.dirname(path)) in map(osp.realpath, folders)
