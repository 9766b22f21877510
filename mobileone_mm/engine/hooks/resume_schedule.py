"""A hook that fits the schedules of a resumed run to its number of iterations an epoch."""
from collections.abc import Iterator
from math import isclose

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop

from ..resuming import is_resuming

_IMAGES = 'images_per_iter'  # in a checkpoint's meta


@HOOKS.register_module()
class ResumeScheduleHook(Hook):
    """Fits the schedules of a resumed run to its number of iterations an epoch, and warns.

    Another number of devices, another batch size or more images change how many iterations an epoch has. mmengine
    restores schedules that count iterations (``convert_to_iter_based``, or without an ``end``) as they were, so that
    they would end before the last epoch, or not at all. Here they are rescaled, as is the count of iterations itself.
    Those with a fixed ``end`` in iterations, such as a warm-up, stay as they are.

    The LR and the weight decay stay those of the checkpoint, with a warning where the config has others. With
    ``auto_scale_lr`` enabled, the LR becomes what a run that starts with so many images an iteration has. Under
    IterBasedTrainLoop, where ``max_iters`` counts, nothing is rescaled, and a warning says both numbers of images.

    To switch it off under our own tools: ``default_hooks.resume_schedule=None``.
    """

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Note the number of images an iteration, of all devices together."""
        checkpoint['meta'][_IMAGES] = _images_per_iter(runner)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Rewrite a checkpoint's schedules, before mmengine restores them."""
        if not is_resuming(runner):
            return
        info = checkpoint.get('message_hub', {}).get('runtime_info', {})
        images = (checkpoint.get('meta', {}).get(_IMAGES), _images_per_iter(runner))
        scales = _scale_lr(runner, checkpoint) if (runner.auto_scale_lr or {}).get('enable') else False
        _warn_of_settings(runner, checkpoint)
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            if images[0] not in (None, images[1]):
                runner.logger.warning(f'Resumed with {images[1]} images an iteration, where the checkpoint has '
                                      f'{images[0]}. {_about_lr(runner, checkpoint, scales)} max_iters is not changed: '
                                      'an iteration is another share of the images now.')
            return
        # Written by another loop, or without RuntimeInfoHook.
        if not info.get('max_epochs') or not info.get('max_iters'):
            return
        before, now = info['max_iters'] / info['max_epochs'], loop.max_iters / loop.max_epochs
        if before != now:
            rescaled = [_rescale(saved, fresh, now / before) for saved, fresh in _schedulers(runner, checkpoint)]
            checkpoint['meta']['iter'] = round(checkpoint['meta']['iter'] * now / before)
            counts = f' ({images[0]} images an iteration before, {images[1]} now)' if images[0] else ''
            runner.logger.warning(
                f'Resumed with {now:g} iterations an epoch, where the checkpoint has {before:g}{counts}. '
                f'{sum(rescaled)} schedule(s) that count iterations are rescaled to end as the config says. '
                f'{_about_lr(runner, checkpoint, scales)}')
        others = [f'{saved["begin"]}..{saved["end"]} instead of {fresh.begin}..{fresh.end}'
                  for saved, fresh in _schedulers(runner, checkpoint)
                  if (saved.get('begin'), saved.get('end')) != (fresh.begin, fresh.end)]
        if others:
            runner.logger.warning(f"The checkpoint's schedules go on, not the config's: {', '.join(others)}. To follow "
                                  'the config, start from the weights only: load_from instead of --resume.')


def _images_per_iter(runner) -> int | None:
    loader = runner.train_dataloader
    size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
    return None if size is None else size * get_world_size()


def _schedulers(runner, checkpoint: dict) -> Iterator[tuple[dict, object]]:
    """What a checkpoint holds of each schedule, with the one that was built from the config."""
    saved, fresh = checkpoint.get('param_schedulers') or [], runner.param_schedulers or []
    if isinstance(fresh, dict):  # of several optimizers
        pairs = [(saved.get(name, []), schedulers) for name, schedulers in fresh.items()] \
            if isinstance(saved, dict) else []
    else:
        pairs = [(saved, fresh)] if isinstance(saved, list) else []
    for states, schedulers in pairs:
        yield from zip(states, schedulers, strict=False)


def _rescale(saved: dict, fresh, ratio: float) -> bool:
    """Give a saved schedule that counts iterations the limits of the new one, at the same share of them."""
    if fresh.by_epoch or saved.get('by_epoch') or (saved.get('begin'), saved.get('end')) == (fresh.begin, fresh.end):
        return False
    step = round(saved['_global_step'] * ratio)
    last_step = min(step, fresh.end - 1) - fresh.begin if step >= fresh.begin else -1
    kept = {key: saved[key] for key in ('base_values', '_last_value') if key in saved}
    saved.clear()
    saved.update(fresh.state_dict() | kept | dict(_global_step=step, last_step=last_step))
    return True


def _scale_lr(runner, checkpoint: dict) -> bool:
    """Turn a checkpoint's LR into what ``auto_scale_lr`` makes of the config's for this number of images."""
    groups = _param_groups(runner, checkpoint)
    if not groups:
        return False
    ratios = [_initial_lr(new) / _initial_lr(old) if _initial_lr(old) else 1. for old, new in groups]
    for (group, _), ratio in zip(groups, ratios, strict=True):
        group['lr'] *= ratio
        if 'initial_lr' in group:
            group['initial_lr'] *= ratio
    for state, scheduler in _schedulers(runner, checkpoint):
        if scheduler.param_name == 'lr':
            for key in ('base_values', '_last_value'):
                state[key] = [value * ratio for value, ratio in zip(state[key], ratios, strict=True)]
    return any(ratio != 1 for ratio in ratios)


def _param_groups(runner, checkpoint: dict) -> list[tuple[dict, dict]]:
    """The groups of a checkpoint's optimizer, each with that of the config's; none of several optimizers."""
    saved = checkpoint.get('optimizer', {}).get('param_groups')
    fresh = getattr(runner.optim_wrapper, 'param_groups', None)
    if not isinstance(saved, list) or not isinstance(fresh, list) or len(saved) != len(fresh):
        return []
    return list(zip(saved, fresh, strict=True))


def _warn_of_settings(runner, checkpoint: dict) -> None:
    """Say that an LR or weight decay of the config has no effect: mmengine restores the checkpoint's."""
    for name, value in (('LR', _initial_lr), ('weight decay', lambda group: group.get('weight_decay'))):
        pairs = [(value(saved), value(fresh)) for saved, fresh in _param_groups(runner, checkpoint)]
        differ = [(old, new) for old, new in pairs
                  if old is not None and new is not None and not isclose(old, new, rel_tol=1e-6)]
        if differ:
            old, new = differ[0]
            runner.logger.warning(
                f"The checkpoint's {name} goes on, not the config's: {old:g} instead of {new:g}, in {len(differ)} of "
                f'{len(pairs)} parameter group(s). To follow the config, start from the weights only: load_from '
                'instead of --resume.')


def _initial_lr(group: dict) -> float:
    return group.get('initial_lr', group['lr'])


def _about_lr(runner, checkpoint: dict, scales: bool) -> str:
    if scales:
        return 'The LR is scaled by auto_scale_lr.'
    return "The LR stays the checkpoint's; --auto-scale-lr scales it with the number of images an iteration."
