"""The rules of the house, read from the source: who may import whom, and who may change other libraries."""
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.paths import ROOT

PACKAGE = 'mobileone_mm'
# From top to bottom: a room imports only from rooms below its line. ``__init__`` has the public
# names.
LAYERS = [
    ['__main__'],
    ['__init__'],
    ['benchmark'],
    ['apis'],
    ['deploy'],
    ['tasks'],
    ['compat'],
    ['engine'],
    ['near_identity', 'datasets'],
    ['mobileone'],
    ['checkpoint'],
    ['reparameterize'],
    ['block'],
    ['calls', 'init_cfg', 'kernel_cache', 'layers', 'live_norms'],
    ['arch', 'eager', 'norm_functions', 'reparam'],
    ['utils', 'version'],
]
TASK_LIBRARIES = {'mmdet', 'mmseg', 'mmpretrain'}
# Parts of the interpreter that other libraries use, and the methods that change a list or a dict.
GLOBALS = {'sys.meta_path', 'sys.modules', 'sys.path', 'sys.path_hooks'}
CHANGES = {'append', 'clear', 'extend', 'insert', 'pop', 'popitem', 'remove', 'reverse', 'setdefault', 'sort', 'update'}
REGISTRATIONS = {'register_scheme', 'add_safe_globals'}  # of mmengine's CheckpointLoader, of torch.serialization
# What changes the process that this package started itself.
ALLOWED = {
    f'{PACKAGE}/__main__.py changes sys.argv',  # as Python does for a script
    f'{PACKAGE}/__main__.py changes sys.path',  # the same
    f'{PACKAGE}/engine/config.py changes os.environ',  # an empty variable of ours, while a config is read
}

class Import(NamedTuple):
    """``target`` is the module in full; ``inside`` tells whether the statement stands inside a function."""
    file: Path
    line: int
    target: str
    inside: bool


class Fault(NamedTuple):
    where: str
    what: str


def sources(root: Path, folder: str) -> list[Path]:
    """Paths below ``root`` of all Python files in a folder, without those that an install puts in ``.mim``."""
    paths = (path.relative_to(root) for path in (root / folder).rglob('*.py'))
    return sorted(path for path in paths if '.mim' not in path.parts)


def module(file: Path) -> str:
    """The name by which a file is imported; a folder's ``__init__.py`` keeps its name here."""
    return '.'.join(file.with_suffix('').parts)


def is_module(root: Path, name: str) -> bool:
    path = root.joinpath(*name.split('.'))
    return path.with_suffix('.py').is_file() or path.is_dir()


def imports(root: Path, file: Path) -> Iterator[Import]:
    """All imports of a file, also those in functions, under ``TYPE_CHECKING``, and of modules by ``from``."""

    def visit(node, inside):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, inside)
        elif isinstance(node, ast.ImportFrom):
            parents = file.parts[:-node.level] if node.level else ()
            base = '.'.join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f'{base}.{alias.name}'
                yield Import(file, node.lineno, full if is_module(root, full) else base, inside)
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse((root / file).read_text()), False)


def house_imports(root: Path) -> Iterator[Import]:
    """Imports within the package; that of a folder becomes one of its ``__init__``."""
    for file in sources(root, PACKAGE):
        for each in imports(root, file):
            if each.target.split('.')[0] == PACKAGE:
                is_folder = root.joinpath(*each.target.split('.')).is_dir()
                yield each._replace(target=f'{each.target}.__init__' if is_folder else each.target)


def room(name: str) -> str:
    """The folder in the package, or the module in its root, to which a module belongs."""
    return name.split('.')[1]


# --- the rules: each takes the folder in which the package and its tests lie, and yields what is wrong

def imports_run_downwards(root: Path) -> Iterator[Fault]:
    """Between the rooms, also lazy imports and those for annotations."""
    heights = {name: -i for i, names in enumerate(LAYERS) for name in names}
    for file, line, target, _ in house_imports(root):
        own, other = room(module(file)), room(target)
        if own not in heights:
            yield Fault(f'{file}:{line}', f'{file} belongs to {own}, which has no place in LAYERS')
        elif other not in heights:
            yield Fault(f'{file}:{line}', f'{file} imports {other}, which has no place in LAYERS')
        elif own != other and heights[other] >= heights[own]:
            yield Fault(f'{file}:{line}', f'{file} imports {other}, which is not below {own}')


def no_circle_within_a_room(root: Path) -> Iterator[Fault]:
    graphs, lines = defaultdict(lambda: defaultdict(set)), {}
    for file, line, target, _ in house_imports(root):
        source = module(file)
        if room(source) == room(target):
            graphs[room(source)][source].add(target)
            lines.setdefault((source, target), f'{file}:{line}')
    for name, graph in graphs.items():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]  # from the one that imports to the one that is imported
            where = ', '.join(lines[pair] for pair in pairwise(circle))
            yield Fault(where, f'{PACKAGE}/{name} has a circle: {" -> ".join(circle)}')


def only_tasks_import_task_libraries(root: Path) -> Iterator[Fault]:
    """At module level: elsewhere the package must import without mmdet, mmseg and mmpretrain."""
    for file in sources(root, PACKAGE):
        for _, line, target, inside in imports(root, file):
            library = target.split('.')[0]
            if library in TASK_LIBRARIES and not inside and room(module(file)) != 'tasks':
                yield Fault(f'{file}:{line}', f'{file} imports {library} at module level')


def only_compat_changes_other_libraries(root: Path) -> Iterator[Fault]:
    for file in sources(root, PACKAGE):
        if room(module(file)) != 'compat':
            yield from (Fault(f'{file}:{line}', f'{file} {what}') for line, what in changes(root, file))


def changes(root: Path, file: Path) -> Iterator[tuple[int, str]]:
    """Where a file assigns to, or deletes, a part of another library, or registers with it."""
    tree = ast.parse((root / file).read_text())
    names = {}  # in the file -> in full, of all that is imported from elsewhere
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split('.')[0]: alias.name if alias.asname else alias.name.split('.')[0]
                      for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f'{node.module}.{alias.name}' for alias in node.names}
    names = {name: full for name, full in names.items() if full.split('.')[0] != PACKAGE}

    def full_name(node):
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := full_name(node.value)):
            return f'{owner}.{node.attr}'
        return None

    def targets(node):
        if isinstance(node, (ast.Tuple, ast.List)):
            for element in node.elts:
                yield from targets(element)
        elif isinstance(node, ast.Starred):
            yield from targets(node.value)
        elif isinstance(node, ast.Attribute):
            yield full_name(node)
        elif isinstance(node, ast.Subscript):
            while isinstance(node, ast.Subscript):
                node = node.value
            yield full_name(node)

    for node in ast.walk(tree):
        changed = []
        if isinstance(node, (ast.Assign, ast.Delete)):
            changed = [name for target in node.targets for name in targets(target)]
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.For)):
            changed = list(targets(node.target))
        elif isinstance(node, ast.Call):
            owner, _, method = (full_name(node.func) or '').rpartition('.')
            if owner in GLOBALS and method in CHANGES:
                changed = [owner]
            elif method in REGISTRATIONS:
                yield node.lineno, f'calls {owner}.{method}'
            elif isinstance(node.func, ast.Name) and node.func.id in ('setattr', 'delattr') and node.args:
                changed = [full_name(node.args[0])]
        yield from ((node.lineno, f'changes {name}') for name in changed if name)


def no_test_file_imports_another(root: Path) -> Iterator[Fault]:
    """Shared code is in ``tests/support``, shared fixtures are in a ``conftest.py``."""
    files = sources(root, 'tests')
    tests = {file.stem for file in files if file.name.startswith('test_')} | {'conftest'}
    for file in files:
        for _, line, target, _ in imports(root, file):
            if target.split('.')[-1] in tests and target.split('.')[0] in {*tests, 'tests'}:
                yield Fault(f'{file}:{line}', f'{file} imports {target}')


def folders_of_tests_mirror_the_package(root: Path) -> Iterator[Fault]:
    for file in sources(root, 'tests'):
        folder = file.parent.relative_to('tests')
        others = ((), ('support', ), ('support', 'absent'), ('configs', ))
        if folder.parts not in others and not (root / PACKAGE / folder).is_dir():
            yield Fault(str(file), f'{file} lies in a folder that {PACKAGE} does not have')


RULES = [imports_run_downwards, no_circle_within_a_room, only_tasks_import_task_libraries,
         only_compat_changes_other_libraries, no_test_file_imports_another, folders_of_tests_mirror_the_package]


@pytest.mark.parametrize('rule', RULES, ids=lambda rule: rule.__name__)
def test_rules(rule):
    faults = [f'{fault.where}: {fault.what}' for fault in rule(ROOT) if fault.what not in ALLOWED]
    assert not faults, '\n' + '\n'.join(faults)


def test_exceptions_are_still_needed():
    found = {fault.what for rule in RULES for fault in rule(ROOT)}
    gone = sorted(ALLOWED - found)
    assert not gone, f'No longer so; delete from ALLOWED in {Path(__file__).name}:\n' + '\n'.join(gone)


def test_every_room_has_one_place():
    rooms = [name for names in LAYERS for name in names]
    assert sorted(rooms) == sorted({room(module(file)) for file in sources(ROOT, PACKAGE)})
    assert not set(rooms) & sys.stdlib_module_names


BLOCK, HOOKS = f'{PACKAGE}/block.py', f'{PACKAGE}/engine/hooks.py'
PLANTED = [
    (imports_run_downwards, BLOCK, 'from .mobileone import MobileOne', 'imports mobileone, which is not below block'),
    (imports_run_downwards, BLOCK, 'def f():\n    from . import mobileone', 'imports mobileone'),
    (imports_run_downwards, BLOCK, 'if TYPE_CHECKING:\n    import mobileone_mm.engine.hooks', 'imports engine'),
    (imports_run_downwards, HOOKS, 'from .. import MobileOne', 'imports __init__, which is not below engine'),
    (imports_run_downwards, HOOKS, 'from ..apis import launch', 'imports apis'),
    (imports_run_downwards, f'{PACKAGE}/datasets/check.py', 'from ..near_identity import x', 'imports near_identity'),
    (imports_run_downwards, f'{PACKAGE}/new/thing.py', 'from ..utils import errors', 'new, which has no place'),
    (no_circle_within_a_room, HOOKS, 'def f():\n    from .trained import a', 'engine.hooks -> mobileone_mm.engine.tr'),
    (no_circle_within_a_room, HOOKS, 'from . import trained', 'has a circle'),
    (only_tasks_import_task_libraries, BLOCK, 'if a:\n    import mmdet.apis', 'imports mmdet at module level'),
    (only_tasks_import_task_libraries, HOOKS, 'class A:\n    from mmseg import x', 'imports mmseg at module level'),
    *((only_compat_changes_other_libraries, BLOCK, text, expected) for text, expected in (
        ('import sys\nsys.meta_path.insert(0, 1)', 'changes sys.meta_path'),
        ('from sys import meta_path as m\nm.remove(1)', 'changes sys.meta_path'),
        ('import sys\ndef f():\n    del sys.modules["a"]', 'changes sys.modules'),
        ('import sys\nsys.modules["a"], b = 1, 2', 'changes sys.modules'),
        ('from mmengine.runner import CheckpointLoader as C\nC.register_scheme("")', 'Loader.register_scheme'),
        ('def f():\n    import torch\n    torch.serialization.add_safe_globals([])', 'serialization.add_safe_globals'),
        ('from mmengine.runner import checkpoint\ncheckpoint._load = 1', 'changes mmengine.runner.checkpoint._load'),
        ('import torch.hub\ntorch.hub.CACHE["a"]["b"] += 1', 'changes torch.hub.CACHE'),
        ('import mmcv as m\nsetattr(m, "ops", 1)', 'changes mmcv'))),
    (no_test_file_imports_another, 'tests/test_b.py', 'from tests.test_a import f', 'imports tests.test_a'),
    (no_test_file_imports_another, 'tests/engine/test_b.py', 'def f():\n    from .. import test_a', 'tests.test_a'),
    (no_test_file_imports_another, 'tests/test_b.py', 'import test_a', 'imports test_a'),
    (no_test_file_imports_another, 'tests/support/runs.py', 'from ..conftest import f', 'imports tests.conftest'),
    (folders_of_tests_mirror_the_package, 'tests/hooks/test_b.py', '', 'lies in a folder that'),
]


@pytest.mark.parametrize('rule, file, text, expected', PLANTED)
def test_a_planted_fault_is_found(rule, file, text, expected, tmp_path):
    """In a house without faults, which has one in the last lines of one file."""
    house = {
        'mobileone_mm/__init__.py': 'from .mobileone import MobileOne',
        'mobileone_mm/block.py': 'import mmengine.runner',
        'mobileone_mm/mobileone.py': 'from . import block',
        'mobileone_mm/near_identity.py': 'from .block import a',
        'mobileone_mm/datasets/check.py': 'import sys\nsys.modules["a"]\nsys.modules.get("b")',
        'mobileone_mm/engine/hooks.py': 'def f():\n    from mmdet import x\n    x = self.a = 1',
        'mobileone_mm/engine/trained.py': 'from .hooks import a\nfrom ..mobileone import MobileOne',
        'mobileone_mm/utils/errors.py': '',
        'mobileone_mm/apis/launch.py': 'from ..engine import hooks',
        'mobileone_mm/tasks/a.py': 'import mmdet',
        'mobileone_mm/compat/a.py': 'import sys\nsys.meta_path.insert(0, 1)',
        'tests/test_a.py': 'from tests.support import runs',
        'tests/support/runs.py': 'import mmdet.test_a',
    }
    for name, content in house.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + '\n')
    assert [fault for each in RULES for fault in each(tmp_path)] == []
    before = (tmp_path / file).read_text() if (tmp_path / file).exists() else ''
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(before + text + '\n')
    fault, = rule(tmp_path)
    assert expected in fault.what and fault.where.startswith(f'{file}') and (not text or f'{file}:' in fault.where)
