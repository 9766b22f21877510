"""What a config's ``type`` names: by a name, with or without scope, by a path, or in pure Python configs by a class.

``'Resize'``, ``'mmdet.Resize'``, ``'mmdet.datasets.transforms.Resize'`` and the class itself are the same. Pure Python
configs (``with read_base():``) hold classes, and what mmengine dumps of them in a work dir holds paths.
"""
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.registry import Registry
from mmengine.utils import get_object_from_string

TASK_LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain')


def type_name(entry: Any) -> str:
    """The bare name of a ``type``.

    Args:
        entry: The value of ``type``, or a config's dict that has one.

    Returns:
        The last part of a name or path; of a class or function its name; ``''`` where there is no type.
    """
    kind = entry.get('type') if isinstance(entry, Mapping) else entry
    if kind is None:
        return ''
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def resolve_type(entry: Mapping, registry: Registry, scope: str | None) -> Any:
    """The class or function that a ``type`` names; None where there is no such name.

    Args:
        entry: A config's dict with a ``type``.
        registry: mmengine's registry for entries of this kind.
        scope: The config's ``default_scope``.
    """
    kind = entry.get('type')
    if isinstance(kind, str):
        with registry.switch_scope_and_registry(scope) as found:
            kind = found.get(kind)
    return kind


def task_library(cfg: Mapping) -> str | None:
    """The library of a config's task: ``mmdet``, ``mmseg`` or ``mmpretrain``.

    It is ``default_scope``. Where that names none of them, as in pure Python configs, it is the library of the model's
    class or of the classes that it derives from, else that of a dataset's.

    Args:
        cfg: A whole config.

    Returns:
        Its name; ``default_scope`` where nothing tells.
    """
    scope = cfg.get('default_scope')
    if scope in TASK_LIBRARIES:
        return scope
    loaders = [cfg.get(f'{split}_dataloader') or {} for split in ('test', 'val', 'train')]
    kinds = [part.get('type') for part in (cfg.get('model'), *(loader.get('dataset') for loader in loaders))
             if isinstance(part, Mapping)]
    found = (library for kind in kinds for library in _libraries(kind) if library in TASK_LIBRARIES)
    return next(found, scope)


def _libraries(kind: Any) -> Iterator[str]:
    """The libraries of a type and of what it derives from, as far as its name or its class tells them."""
    if isinstance(kind, str) and '.' in kind:
        yield kind.partition('.')[0]
        kind = get_object_from_string(kind)  # None for a scope and a name, which is no path
    if inspect.isclass(kind):
        yield from (base.__module__.partition('.')[0] for base in kind.__mro__)
