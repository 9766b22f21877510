"""Stand-ins for modules that a library imports, but that what is run here does not need."""
import importlib.abc
import importlib.machinery
from types import ModuleType

import torch

from ..utils.errors import MissingOperatorError
from .guards import import_is_guarded


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """On ``sys.meta_path``, finds a module and all modules below it, each of them a stand-in.

    ``contents`` are real. Every other public name is a placeholder: a class that may be subclassed and checked against,
    and raises :class:`.MissingOperatorError` when it is used.

    Many libraries ask whether a name exists: ``try: from mmcv.ops import X``, ``except ImportError: X = None``. Such an
    import of a placeholder raises ModuleNotFoundError, as without the stand-in. These questions get no honest answer:

    - ``import mmcv.ops`` and ``from mmcv import ops`` in a ``try``: the module is there, for what it really has. Once
      imported, it would be there anyway.
    - ``importlib.util.find_spec('mmcv.ops')``, for the same reason.
    - ``importlib.import_module('mmcv.ops')`` and then ``getattr``, ``hasattr`` or ``ops.X``: mmengine's registry finds
      ``type='mmcv.ops.nms'`` in just this way. To ask, use an import statement.
    - What :func:`.import_is_guarded` does not see: a ``try`` elsewhere than around the statement, or no source at hand.

    mmengine's ``mmcv_full_available()`` looks for ``mmcv._ext``, which has no stand-in, and is right.

    Args:
        name: The module, such as ``mmcv.ops``.
        refusal: What the error says after the name that was used.
        contents: What the modules really have, by name.
    """

    def __init__(self, name: str, refusal: str, **contents):
        self.name = name
        self.refusal = refusal
        self.contents = contents
        self._placeholders = {}

    def find_spec(self, fullname: str, path=None, target=None):
        if fullname == self.name or fullname.startswith(f'{self.name}.'):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec) -> ModuleType:
        return _StandIn(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        for name, value in self.contents.items():
            setattr(module, name, value)

    def placeholder(self, name: str) -> type:
        """A class that may be imported, subclassed and checked against, but not used."""

        def refuse(cls, *args, **kwargs):
            raise MissingOperatorError(f'{name} {self.refusal}')

        if name not in self._placeholders:
            module, _, short = name.rpartition('.')
            self._placeholders[name] = type(short, (torch.nn.Module, ), {'__new__': refuse, '__module__': module})
        return self._placeholders[name]


class _StandIn(ModuleType):
    """A module of a :class:`.StandInFinder`.

    What is not real stays out of the module's ``__dict__``, so that each import of it comes to ``__getattr__``.
    """

    def __init__(self, name: str, finder: StandInFinder):
        super().__init__(name)
        self.__dict__.update(_finder=finder, _submodules={})

    def __setattr__(self, name: str, value) -> None:
        if isinstance(value, _StandIn):  # by Python, when a submodule was imported
            self._submodules[name] = value
        else:
            super().__setattr__(name, value)

    def __call__(self, *args, **kwargs):
        self._finder.placeholder(self.__name__)()  # a function of its submodule's name

    def __getattr__(self, name: str):
        if name.startswith('_'):
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}', name=name, obj=self)
        full_name = f'{self._finder.name}.{name}'
        if import_is_guarded():
            # Not an AttributeError, which Python turns into a plain ImportError: some ask for ModuleNotFoundError only.
            raise ModuleNotFoundError(f'{full_name} {self._finder.refusal}', name=full_name)
        return self._submodules.get(name) or self._finder.placeholder(full_name)
