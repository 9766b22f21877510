"""``--cfg-options``: settings of a config, overridden by dotted key."""
import inspect
from difflib import get_close_matches

from mmengine.config import Config
from mmengine.runner import Runner

from ..utils.errors import ConfigError, print_warning

# What mmengine, the mm libraries and this package read of a config besides Runner's arguments.
_OTHER_KEYS = {
    'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval', 'find_unused_parameters',
    'model_wrapper_cfg', 'runner_type', 'sync_bn', 'tta_model', 'tta_pipeline',
}


def override(cfg: Config, options: dict | None) -> None:
    """Set options in a config, and warn of those that look misspelt.

    mmengine makes a new entry of whatever a config does not have. A new setting of an entry that is there passes
    without a warning: the class that gets it refuses what it does not take, unless it takes anything, as mmseg's
    IoUMetric does.

    Args:
        cfg: Config, changed in place.
        options: Values by dotted key; entries of lists by their number.

    Raises:
        ConfigError: A list has no such entry, or what is to get a setting is no dict.
    """
    options = dict(options or {})
    # As in config files, KEY._delete_=True makes KEY anew from its other settings, which then are no slips.
    anew = [key.removesuffix('._delete_') for key, value in options.items()
            if key.endswith('._delete_') and value is True]
    for key, value in [*((entry, {}) for entry in anew), *options.items()]:
        if key in anew or not any(key.startswith(f'{entry}.') for entry in anew):
            found = _find_new(cfg, key, value)
            if found:
                print_warning(found)
    for entry in anew:
        *parents, name = entry.split('.')
        parent = _entry(cfg, parents)
        if isinstance(parent, list):
            raise ConfigError(f'--cfg-options {entry}._delete_: an entry of a list cannot be made anew. Give the whole '
                              f'list: {".".join(parents)}="[...]"')
        if parent is None or name not in parent:
            del options[f'{entry}._delete_']  # which mmengine would leave in what is new
    cfg.merge_from_dict(options)


def _entry(cfg: Config, parts: list[str]):
    """What lies below these keys and numbers, or None."""
    node = cfg
    for part in parts:
        if isinstance(node, list):
            node = node[int(part)]
        elif isinstance(node, (dict, Config)) and part in node:
            node = node[part]
        else:
            return None
    return node


def _find_new(cfg: Config, key: str, value) -> str | None:
    """The warning for a key that leads through what a config does not have."""
    parts, node = key.split('.'), cfg
    for i, part in enumerate(parts):
        parent, is_last = '.'.join(parts[:i]), i == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(f'--cfg-options {key}: {parent} is a list of {len(node)}, so its entries are '
                                  f'{parent}.0 to {parent}.{len(node) - 1}, got {part!r}.' if node else
                                  f'--cfg-options {key}: {parent} is an empty list.')
            if is_last and not isinstance(value, dict):
                raise ConfigError(f'--cfg-options {key}: single entries of a list can only be set where they are '
                                  f'dicts. Give the whole list: {parent}="[...]"')
            node = node[int(part)]
        elif not isinstance(node, (dict, Config)):
            raise ConfigError(f'--cfg-options {key}: {parent} is {node!r}, which has no settings. Set {parent} '
                              'as a whole.')
        elif part in node:
            node = node[part]
        elif part in _known_keys() if i == 0 else is_last:
            return None
        else:
            prefix = f'{parent}.' if parent else ''
            near = get_close_matches(part, {str(name) for name in node} | (_known_keys() if i == 0 else set()))
            guess = f' Did you mean {", ".join(prefix + each for each in near)}?' if near else ''
            return f'--cfg-options {key}: {parent or "the config"} has no {part!r} so far, so {prefix}{part} is new. ' \
                   f'Perhaps nothing reads it.{guess}'
    return None


def _known_keys() -> set[str]:
    return set(inspect.signature(Runner.__init__).parameters) - {'self'} | _OTHER_KEYS
