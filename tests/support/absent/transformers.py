"""Hides transformers, which LiteRT's converter brings, from tools that tests start: mmdet and mmengine import it
wherever they find it, which is a third of the time in which a tool starts. mmpretrain asks pip, and gets the real one.
"""
import importlib.util
import os
import sys
from importlib.machinery import PathFinder

if 'mmpretrain' not in sys.modules:
    raise ImportError('transformers is left out of the tests of tools')
spec = PathFinder.find_spec(__name__, [path for path in sys.path if path != os.path.dirname(__file__)])
if spec is None:
    raise ModuleNotFoundError("No module named 'transformers'", name=__name__)
sys.modules[__name__] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[__name__])
