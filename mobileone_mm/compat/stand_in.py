"""Stand-ins for modules that a library imports, but that what is run here does not need."""
import importlib.abc
import importlib.machinery
from types import ModuleType

import torch


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """On ``sys.meta_path``, finds a module and all modules below it, each of them a stand-in.

    Every public name imports, as a class that may be subclassed and checked against; what is no more than a stand-in
    raises when it is used.

    Args:
        name: The module, such as ``mmcv.ops``.
        refusal: What the error says after the name that was used.
        contents: What the modules really have, by name.
    """

    def __init__(self, name: str, refusal: str, **contents):
        self.name = name
        self.refusal = refusal
        self.contents = contents

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
            raise RuntimeError(f'{name} {self.refusal}')

        module, _, short = name.rpartition('.')
        return type(short, (torch.nn.Module, ), {'__new__': refuse, '__module__': module})


class _StandIn(ModuleType):

    def __init__(self, name: str, finder: StandInFinder):
        super().__init__(name)
        self.__dict__['_finder'] = finder

    def __setattr__(self, name: str, value) -> None:
        # As in mmcv, a function such as mmcv.ops.nms.nms goes before its submodule, which import sets here too.
        if not isinstance(value, _StandIn) or name not in self.__dict__:
            super().__setattr__(name, value)

    def __call__(self, *args, **kwargs):
        self._finder.placeholder(self.__name__)()  # a function of its submodule's name

    def __getattr__(self, name: str):
        if name.startswith('_'):
            raise AttributeError(name)
        placeholder = self._finder.placeholder(f'{self._finder.name}.{name}')
        setattr(self, name, placeholder)
        return placeholder
