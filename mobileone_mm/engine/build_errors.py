"""Errors of building what a config describes: which entry, what it takes, and what was meant."""
import inspect
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS, OPTIMIZERS
from mmengine.runner import BaseLoop

from ..datasets.check import evaluators
from ..utils.errors import ConfigError, MobileOneError
from ..utils.logs import warn
from ..utils.types import TASK_LIBRARIES, resolve_type, type_name

# Functions of mmengine that call a class with the settings of a config, and, where there is no ``type``, whose.
_BUILDERS = {
    'build_from_cfg': '', 'get_instance': '', 'build_dataloader': r'(train|val|test)_dataloader',
    'build_train_loop': 'train_cfg', 'build_val_loop': 'val_cfg', 'build_test_loop': 'test_cfg',
}
_KNOWN = {'torch', 'mmcv', 'mmengine', *TASK_LIBRARIES}
_UNEXPECTED = re.compile(r"(\S+)\(\) got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r'(\S+)\(\) missing \d+ required (?:positional|keyword-only) arguments?: (.*)')


@contextmanager
def explained_build_errors(cfg: Config) -> Iterator[None]:
    """Say which entry of a config has a ``type`` that does not exist, an argument too many or few, or a wrong value.

    Translated is only what mmengine's own call of the class raises, what the constructors of its base classes raise
    that get the argument handed on, and what constructors of torch and of mm raise on a value; errors from inside of
    anybody else's code stay as they are. A class that takes any argument and drops it, as mmseg's IoUMetric, raises
    nothing; :func:`.warn_of_dropped` is for these.

    Raises:
        ConfigError: Naming the entry, what is allowed, and the nearest names.
    """
    try:
        yield
    except (TypeError, KeyError, AssertionError, ValueError) as error:
        message = _explain(cfg, error)
        if message is None:
            raise
        raise ConfigError(message) from error


def warn_of_dropped(cfg: Config) -> None:
    """Warn of arguments that a metric of mm takes by ``**kwargs`` and drops, as mmseg's IoUMetric does."""
    found = {}
    for split in ('val', 'test'):
        for entry in filter(lambda each: isinstance(each, dict), evaluators(cfg, split)):
            kind = resolve_type(entry, METRICS, cfg.get('default_scope'))
            # A user's class may well read what it takes so.
            if not inspect.isclass(kind) or not issubclass(kind, BaseMetric) or \
                    kind.__module__.partition('.')[0] not in ('mmengine', *TASK_LIBRARIES):
                continue
            allowed = _arguments(kind)
            for name in set(entry) - {'type', '_scope_', 'keep_results', *allowed}:  # the third is test.py's --out
                found.setdefault((kind.__name__, name), (split, allowed))
    for (kind, name), (split, allowed) in sorted(found.items()):
        near = get_close_matches(name, allowed, 1)
        guess = f' Did you mean {near[0]!r}?' if near else ''
        warn(f'{split}_evaluator ({kind}) ignores {name!r}, which it does not know.{guess} It takes '
             f'{", ".join(allowed[1:])}.')


def _explain(cfg: Config, error: Exception) -> str | None:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(frame.f_code.co_name == 'run' and isinstance(frame.f_locals.get('self'), BaseLoop) for frame in frames):
        return None  # whatever fails in a running loop was not built from this config
    for frame in frames:  # which looks at the optimizer's arguments, though there may be no such class
        if frame.f_globals.get('__name__') == 'mmengine.optim.optimizer.default_constructor' and \
                frame.f_locals.get('optimizer_cls', '') is None:
            return _unknown_type(cfg, frame.f_locals['self'].optimizer_cfg['type'], OPTIMIZERS)
    at = next((i for i in reversed(range(len(frames))) if _is_builder(frames[i])), None)
    if at is None:
        return None
    builder, below = frames[at], frames[at + 1:]
    name, local = builder.f_code.co_name, builder.f_locals
    if isinstance(error, KeyError):
        is_unknown = name == 'build_from_cfg' and not below and local.get('obj_cls', '') is None
        return _unknown_type(cfg, local['obj_type'], local['registry']) if is_unknown else None
    unexpected, missing = _UNEXPECTED.match(str(error)), _MISSING.match(str(error))
    if not (unexpected or missing):
        return _refused(cfg, error, name, local, below)
    function = (unexpected or missing)[1]
    target = local.get('obj_cls') if name == 'build_from_cfg' else local.get('cls')
    if target is None:  # a DataLoader or a loop, whose name is one of the runner's module
        target = builder.f_globals.get(function.split('.')[0])
    if target is None or not _is_its_constructor(target, function, below):
        return None
    if unexpected:
        return _unexpected(cfg, target, unexpected[2], name, local)
    names = re.findall(r"'(\w+)'", missing[2])
    path = _find(cfg, target, name, local, lambda entry: not set(names) & set(entry))
    return path and f'{path} ({target.__name__}) needs {", ".join(names)}, which is not set.'


def _refused(cfg: Config, error: Exception, builder: str, local: dict, below: list[FrameType]) -> str | None:
    """The message for a value that a constructor of torch or mm refuses, often by an assertion without words."""
    if isinstance(error, MobileOneError) or not below or any(
            frame.f_code.co_name != '__init__' or frame.f_globals.get('__name__', '').partition('.')[0] not in _KNOWN
            for frame in below):
        return None
    target = local.get('obj_cls') if builder == 'build_from_cfg' else type(below[0].f_locals.get('self'))
    path = inspect.isclass(target) and _find(cfg, target, builder, local, lambda entry: True)
    if not path:
        return None
    line = traceback.extract_tb(error.__traceback__)[-1].line
    return f'{path} ({target.__name__}) refuses a value: {" ".join(str(error).split()) or type(error).__name__}, at ' \
           f'"{line}". Correct it; with MOBILEONE_MM_TRACEBACK=1 in the environment, the traceback shows where.'


def _is_builder(frame: FrameType) -> bool:
    return frame.f_code.co_name in _BUILDERS and frame.f_globals.get('__name__', '').startswith('mmengine.')


def _is_its_constructor(target, function: str, below: list[FrameType]) -> bool:
    """Whether the call that failed is that of ``target``, or of its base classes one after the other."""
    if not inspect.isclass(target):
        return not below
    bases = {each.__name__ for each in target.__mro__}
    return re.fullmatch(r'(?:.*\.)?(\w+)\.(?:__init__|__new__)', function) is not None and \
        function.rsplit('.', 2)[-2] in bases and \
        all(frame.f_code.co_name == '__init__' and isinstance(frame.f_locals.get('self'), target) for frame in below)


def _unexpected(cfg: Config, target, argument: str, builder: str, local: dict) -> str | None:
    path = _find(cfg, target, builder, local, lambda entry: argument in entry)
    if path is None:
        return None
    given = set(local.get('default_args') or ()) | {'self', 'runner', 'dataloader', 'params'}  # not of the config
    allowed = [name for name in _arguments(target) if name not in given]
    near = get_close_matches(argument, allowed, 1)
    guess = f' Did you mean {near[0]!r}?' if near else ''
    return f'{path} ({target.__name__}) takes no {argument!r}.{guess} It takes {", ".join(allowed)}.'


def _arguments(target) -> list[str]:
    """Names of arguments, also of the base classes that get them handed on by ``**kwargs``."""
    names, owners = [], [target]
    if inspect.isclass(target):
        owners = [each.__init__ for each in target.__mro__ if '__init__' in vars(each)]
    for owner in owners:
        parameters = inspect.signature(owner).parameters.values()
        names += [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
                  and each.name not in names]
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return names


def _unknown_type(cfg: Config, name: str, registry) -> str | None:
    path = next((path for path, entry in _entries(dict(cfg.items())) if type_name(entry) == type_name(name)), None)
    if path is None:
        return None
    known, todo = set(), [registry]
    while todo:
        each = todo.pop()
        known |= set(each.module_dict)
        todo += [*each.children.values(), *([each.parent] if each.parent and not each.parent.module_dict.keys() <= known
                                            else [])]
    near = _nearest_types(type_name(name), known)
    guess = f' Did you mean {", ".join(near)}?' if near else ''
    return f'{path}.type: {registry.scope} has no {registry.name} {name!r}.{guess} A class of your own is registered ' \
           "by the module that custom_imports=dict(imports=['MODULE']) names."


def _nearest_types(name: str, known: set[str]) -> list[str]:
    """The names that look most like this one, whatever their capitals."""
    lower = {}
    for each in sorted(known):
        lower.setdefault(each.lower(), []).append(each)
    return [each for match in get_close_matches(name.lower(), lower) for each in lower[match]]


def _find(cfg: Config, target, builder: str, local: dict, fits) -> str | None:
    """The path of the entry that was built: of several that fit, the one that is equal to it."""
    if _BUILDERS[builder]:
        found = [(path, entry) for path, entry in _entries(dict(cfg.items())) if re.fullmatch(_BUILDERS[builder], path)
                 and fits(entry)]
    else:
        found = [(path, entry) for path, entry in _entries(dict(cfg.items()))
                 if type_name(entry) == target.__name__ and fits(entry)]
    return next((path for path, entry in found if entry == local.get('cfg')), found[0][0] if found else None)


def _entries(value, path: str = '') -> Iterator[tuple[str, dict]]:
    """All dicts in a config, by their dotted paths."""
    if isinstance(value, dict):
        if path:
            yield path, value
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return
    for key, item in items:
        yield from _entries(item, f'{path}.{key}' if path else str(key))
