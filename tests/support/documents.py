"""Documents as tests read them: their fenced blocks, and what is wrong with the commands and the code in these.

Each block in sh or Python has a marker, an HTML comment on the line above its fence:

- ``run``: executed in a copy of the repository, all blocks of a page in one folder, those in Python with one namespace.
  A statement with ``# -> TEXT`` behind its ``print(...)`` must print TEXT. ``run: ARGS`` adds ARGS to each call of
  ``tools/train.py``, to make it short.
- ``dry``: each command in sh is checked without being run: options, configs, overrides, targets, extras.
- ``config``: a config in Python, read as a file beside ``configs``. ``config: NAME.py`` gives it the name by which
  commands of the page know it.
- ``skip: REASON``: not checked.
"""
import argparse
import ast
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import tokenize
import traceback
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache, wraps
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from .paths import ROOT
from .runs import python, run

MARKERS = {'sh': ('run', 'dry', 'skip'), 'python': ('run', 'config', 'skip')}
REFUSED = {'bash', 'shell', 'console', 'shell-session', 'zsh', 'py', 'python3', 'pycon', '{code-block}', '{code}',
           '{sourcecode}'}
# Programs of which nothing is checked, modules behind python -m, and what python -m mobileone_mm takes beside scripts.
UNCHECKED = {'.', 'adb', 'apt-get', 'cat', 'cd', 'cp', 'curl', 'echo', 'git', 'ls', 'mkdir', 'nvidia-smi', 'source',
             'sudo', 'tar', 'tensorboard', 'unzip', 'wget'}
MODULES = {'build', 'http.server', 'pytest', 'sphinx', 'venv'}
WORDS = {'env'}
# What a block that is run must leave to the reader: there it would change the environment of the tests.
NOT_TO_RUN = {'apt-get', 'make', 'pip', 'sudo'}
# One config of each task, for options of commands whose config is the user's own.
EXAMPLES = ('configs/detection/ssdlite_mobileone_s2.py', 'configs/segmentation/deeplabv3_mobileone_s2_voc12aug.py',
            'configs/pretraining/mobileone_s2_in1k.py')
_MARKER = re.compile(rf'<!--\s*({"|".join(sorted({kind for kinds in MARKERS.values() for kind in kinds}))})'
                     r'\s*(?::\s*(.*?)\s*)?-->')
_PLACEHOLDER = re.compile(r'[A-Z][A-Z\d_]*')


class Block(NamedTuple):
    """``line`` is that of the fence; ``marker`` is empty where there is none."""
    file: str
    line: int
    language: str
    marker: str
    argument: str
    text: str

    @property
    def where(self) -> str:
        return f'{self.file}:{self.line}'


class Document(NamedTuple):
    """``prose`` are the lines outside of blocks, with their numbers."""
    file: str
    blocks: list[Block]
    prose: list[tuple[int, str]]


class Fault(Exception):
    """What is wrong with a command or a config."""


def read_document(path: Path, root: Path = ROOT) -> Document:
    return parse_document(path.read_text(encoding='utf-8'), path.relative_to(root).as_posix())


def parse_document(text: str, file: str) -> Document:
    document = Document(file, [], [])
    _scan(list(enumerate(text.splitlines(), 1)), document)
    return document


def _scan(lines: list[tuple[int, str]], document: Document) -> None:
    above = ''
    while lines:
        (number, line), *lines = lines
        fence = re.fullmatch(r'( *)(`{3,}(?!.*`)|~{3,})(.*)', line)
        if not fence:
            document.prose.append((number, line))
            above = line
            continue
        indent, ticks, language = len(fence[1]), fence[2], (fence[3].split() or [''])[0]
        ends = (i for i, (_, each) in enumerate(lines) if re.fullmatch(rf' *{ticks[0]}{{{len(ticks)},}} *', each))
        end = next(ends, len(lines))
        body, lines = lines[:end], lines[end + 1:]
        if language.startswith('{') and language not in REFUSED:  # a directive of MyST, which may have blocks in it
            _scan(body, document)
        else:
            marker = _MARKER.fullmatch(above.strip())
            text = ''.join(f'{each[min(indent, len(each) - len(each.lstrip())):]}\n' for _, each in body)
            document.blocks.append(Block(document.file, number, language, marker[1] if marker else '',
                                         (marker[2] or '') if marker else '', text))
        above = ''


# --- markers

def marker_faults(document: Document) -> Iterator[str]:
    for block in document.blocks:
        if block.language in REFUSED:
            yield f'{block.where}: the language is {block.language}; write sh or python'
        elif block.language in MARKERS and (what := _wrong_marker(block)):
            yield f'{block.where}: {what}'
    below = {block.line - 1 for block in document.blocks if block.language in MARKERS}
    for number, line in document.prose:
        if _MARKER.fullmatch(line.strip()) and number not in below:
            yield f'{document.file}:{number}: this marker is not on the line above a block in sh or python'


def _wrong_marker(block: Block) -> str | None:
    kind, argument = block.marker, block.argument
    kinds = MARKERS[block.language]
    if kind not in kinds:
        return f'{kind or "no marker"} above a block in {block.language}; it is one of {", ".join(kinds)}'
    if kind == 'skip' and not argument:
        return 'skip has no reason; write skip: REASON'
    if kind == 'dry' and argument:
        return f'dry takes no arguments, got {argument!r}'
    if kind == 'config' and argument and not re.fullmatch(r'\w+\.py', argument):
        return f'the name of a config is NAME.py, got {argument!r}'
    if kind == 'run' and argument and not (block.language == 'sh' and '/train.py' in block.text):
        return f'nothing takes the arguments {argument!r}: there is no tools/train.py'
    return None


# --- what can be checked without running

def checkout(document: Document, folder: Path) -> None:
    """Make a folder look like the repository, with the page's configs in it."""
    for name in ('benchmarks', 'configs', 'docs', 'tools'):
        (folder / name).symlink_to(ROOT / name)
    for block in document.blocks:
        if block.marker == 'config':
            (folder / _config_name(block)).write_text(block.text, encoding='utf-8')


def _config_name(block: Block) -> str:
    return block.argument or f'config_in_line_{block.line}.py'


def faults(document: Document, folder: Path) -> Iterator[str]:
    """What is wrong with commands, configs and Python of a page; ``folder`` is from :func:`checkout`."""
    for block in document.blocks:
        if block.language == 'sh' and block.marker in ('dry', 'run'):
            yield from _command_faults(block, folder)
        elif block.language == 'python' and block.marker in ('config', 'run'):
            try:
                ast.parse(block.text)
                if block.marker == 'config':
                    _config(folder / _config_name(block))
            except SyntaxError as error:
                yield f'{block.file}:{block.line + (error.lineno or 0)}: {error.msg}'
            except Fault as fault:
                yield f'{block.where}: {fault}'


def _command_faults(block: Block, folder: Path) -> Iterator[str]:
    is_dry = block.marker == 'dry'
    found, said = commands(block)
    if said and (is_dry or 'syntax error' in said):
        yield f'{block.where}: {said}'
    for line, (program, *arguments) in found:
        try:
            if not is_dry and program in NOT_TO_RUN:
                raise Fault(f'{program} changes the environment; mark the block dry')
            _check(program, arguments + (shlex.split(block.argument) if _trains(program, arguments) else []), folder,
                   is_dry)
        except Fault as fault:
            yield f'{block.file}:{line}: {fault}'


def commands(block: Block) -> tuple[list[tuple[int, list[str]]], str]:
    """The commands of a block in sh, each with its line, and what bash says about the block.

    It is bash that splits them into words: it runs the block in an empty folder, with functions that write down how
    they are called in place of all programs.
    """
    functions = ''.join(f'{name}() {{ record {name} "$@"; }}\n' for name in sorted(UNCHECKED | launchers().keys()))
    prelude = ('exec 3>&1 >/dev/null\nreadonly PATH=/dev/null\n'
               'record() { printf "%s\\0" "${BASH_LINENO[1]}" $# "$@" >&3; }\n'
               f'command_not_found_handle() {{ record "$@"; }}\n{functions}builtin source ./block')
    with tempfile.TemporaryDirectory() as empty:
        Path(empty, 'block').write_text(block.text, encoding='utf-8')
        result = subprocess.run(['bash', '--noprofile', '--norc', '-c', prelude], cwd=empty, encoding='utf-8',
                                capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    parts, found = iter(result.stdout.split('\0')[:-1]), []
    for line in parts:
        found.append((block.line + int(line), [next(parts) for _ in range(int(next(parts)))]))
    return found, '; '.join(re.sub(r'^\S+ line \d+: ', '', each) for each in result.stderr.splitlines())


@cache
def launchers() -> dict[str, tuple[list[str], str]]:
    """For each script of ``tools`` that starts several processes: its arguments before the flags, and the tool that
    gets these; as its first lines say.
    """
    texts = [path.read_text(encoding='utf-8') for path in sorted((ROOT / 'tools').glob('*.sh'))]
    usages = [re.search(r': (tools/\S+) ([A-Z_ ]+) \[FLAGS of (\S+)\]', text) for text in texts]
    return {usage[1]: (usage[2].split(), usage[3]) for usage in usages}


def _trains(program: str, arguments: list[str]) -> bool:
    """As _FUNCTIONS below."""
    return program == 'python' and any('/train.py' in word for word in (*arguments[:1], *arguments[2:3]))


def _check(program: str, arguments: list[str], folder: Path, is_dry: bool) -> None:
    if program.startswith('-'):
        raise Fault(f'{program} without the command that it belongs to; write that too')
    if re.fullmatch(r'python[\d.]*', program):
        _check_python(arguments, folder)
    elif program in launchers():
        names, tool = launchers()[program]
        given = dict(zip(names, arguments, strict=False))
        if len(given) < len(names):
            raise Fault(f'{program} takes {" ".join(names)}, got {" ".join(arguments)!r}')
        count = given.get('NUM_PROCESSES', '1')
        if not (count.isdigit() or count in ('N', 'GPUS', 'NUM_PROCESSES')):
            raise Fault(f'{program} takes a number of processes, got {count!r}')
        passed = [given[name] for name in ('CONFIG', 'CHECKPOINT') if name in given]
        _check_script(ROOT / tool, passed + arguments[len(names):], folder)
    elif program == 'make':
        _check_make(arguments)
    elif re.fullmatch(r'pip[\d.]*', program):
        _check_pip(arguments)
    elif is_dry and program not in UNCHECKED:
        raise Fault(f'unknown command {program!r}; teach tests/support/documents.py')


def _check_python(arguments: list[str], folder: Path) -> None:
    first, *rest = arguments or ['']
    if first == '-c':
        try:
            ast.parse(rest[0])
        except SyntaxError as error:
            raise Fault(f'{rest[0]!r}: {error.msg}') from error
    elif first == '-m' and rest[:1] == ['mobileone_mm'] and rest[1:]:
        if len(rest) == 2 and rest[1] in WORDS:
            return
        from mobileone_mm.__main__ import find_script
        package, _, name = rest[1].partition('/')
        script = folder / 'tools' / name
        try:
            script = script if package == 'mobileone_mm' and script.is_file() else Path(find_script(rest[1]))
        except FileNotFoundError as error:
            raise Fault(str(error)) from error
        _check_script(script, rest[2:], folder)
    elif first == '-m' and rest[:1] == ['pip']:
        _check_pip(rest[1:])
    elif first == '-m':
        if not rest or rest[0] not in MODULES:
            raise Fault(f'unknown module {" ".join(rest[:1])!r}; teach tests/support/documents.py')
    elif first:
        if not (folder / first).is_file():
            raise Fault(f'there is no script {first!r}')
        _check_script(folder / first, rest, folder)


def _check_make(arguments: list[str]) -> None:
    text = (ROOT / 'Makefile').read_text(encoding='utf-8')
    targets = {name for line in re.findall(r'^([a-z][\w -]*):', text, re.M) for name in line.split()}
    for word in arguments:
        name, equals, _ = word.partition('=')
        if equals and not re.search(rf'^{re.escape(name)} *[?:]?=', text, re.M):
            raise Fault(f'Makefile has no variable {name!r}')
        if not (equals or name.startswith('-') or name in targets):
            raise Fault(f'Makefile has no target {name!r}')
    result = run('make', '-n', *arguments, check=False)
    if result.returncode:
        raise Fault(result.stderr.strip().rpartition('\n')[2])


def _check_pip(arguments: list[str]) -> None:
    setup = _setup()
    for before, word in zip(['', *arguments], arguments, strict=False):
        if before in ('-r', '--requirement') and not (ROOT / word).is_file():
            raise Fault(f'there is no {word!r}')
        ours = re.match(r'(?:\.|(?:.*/)?mobileone[_-]mm[^[]*)\[(.*?)\]', word)
        unknown = sorted({*re.split(r'\s*,\s*', ours[1])} - setup['extras_require'].keys()) if ours else []
        if unknown:
            raise Fault(f'setup.py has no extra {", ".join(unknown)}')
        wheel = re.search(r'mobileone_mm-([^-]+)-py3', word)
        if wheel and wheel[1] != setup['version']:
            raise Fault(f'the version is {setup["version"]}, got {word!r}')


@cache
def _setup() -> dict:
    """What setup.py says of the package."""
    with mock.patch('setuptools.setup') as setup:
        runpy.run_path(str(ROOT / 'setup.py'))
    return setup.call_args.kwargs


# --- scripts: their own parser takes the arguments

class _Parser(BaseException):
    """Ends a script where it parses its arguments."""


@cache
def _parser_of(script: str) -> argparse.ArgumentParser | None:
    """The parser of a script; None if a package is missing here that the script imports."""

    def stop(parser, *_):
        raise _Parser(parser)

    folder, before = os.path.dirname(script), set(sys.modules)
    try:
        with (mock.patch.object(sys, 'argv', [script]), mock.patch.object(sys, 'path', [folder, *sys.path]),
              mock.patch.object(argparse.ArgumentParser, 'parse_args', stop)):
            runpy.run_path(script, run_name='__main__')
        raise Fault(f'{script} takes no arguments')
    except ImportError:
        return None
    except _Parser as found:
        parser, = found.args
    finally:
        for name in set(sys.modules) - before:  # modules beside the script, which others could have by these names too
            if (getattr(sys.modules[name], '__file__', None) or '').startswith(os.path.join(folder, '')):
                del sys.modules[name]
    parser.allow_abbrev = False
    for action in parser._actions:  # private: argparse has no other list of the options
        action.type = _with_placeholders(action.type or str)
    return parser


def _with_placeholders(convert):
    """Such as the H and W of --shape H W."""

    @wraps(convert)
    def convert_text(text):
        return text if _PLACEHOLDER.fullmatch(text) else convert(text)

    return convert_text


def _check_script(script: Path, arguments: list[str], folder: Path) -> None:
    parser = _parser_of(str(script.resolve()))
    if parser is None:
        return
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            values = vars(parser.parse_args(arguments))
    except SystemExit as end:
        if end.code:
            raise Fault(said.getvalue().strip().rpartition('\n')[2]) from None
        return  # --help
    except Exception as error:  # of DictAction, for what is no KEY=VALUE
        raise Fault(f'{script.name}: {error}') from error
    pairs = [pair for key in ('checkpoint', 'log') if isinstance(values.get(key), list) for pair in values[key]]
    for name in (values.get('config'), *(values.get('configs') or ()), *(config for config, _ in pairs)):
        if name is not None:
            _check_config(name, values.get('cfg_options'), folder, by_name=script.name == 'model_card.py')


# --- configs; what imports the package is imported late, because run_blocks must not do so before a document does

def _check_config(name: str, options: dict | None, folder: Path, by_name: bool) -> None:
    """Read a config, with options. One that the user is to write may have any options that one of ours takes."""
    if by_name and '/' not in name:
        paths = sorted(folder.glob(f'configs/*/{name.removesuffix(".py")}.py'))
    else:
        paths = sorted(folder.glob(name)) if '*' in name else [folder / name] if (folder / name).is_file() else []
    if paths:
        for path in paths:
            _override(path, options)
        return
    is_own = name.startswith(('/', 'data/', 'work_dirs/')) or ('/' not in name and name.endswith('.py'))
    if not (_PLACEHOLDER.fullmatch(name) or (is_own and not by_name)):
        raise Fault(f'there is no config {name!r}')
    refused = []
    for example in EXAMPLES if options else ():
        try:
            return _override(folder / example, options)
        except Fault as fault:
            refused.append(fault)
    if refused:
        raise refused[0]


def _override(path: Path, options: dict | None) -> None:
    from mobileone_mm.engine.overrides import override
    from mobileone_mm.utils.errors import ConfigError
    with mock.patch('mobileone_mm.engine.overrides.print_warning') as warn:
        try:
            override(deepcopy(_config(path)), options)
        except ConfigError as error:
            raise Fault(str(error)) from error
    if warn.called:
        raise Fault(warn.call_args.args[0])


def _config(path: Path):
    return _read_config(path.resolve())  # what is linked is read once for all documents


@cache
def _read_config(path: Path):
    from mobileone_mm.engine.config import read_config
    try:
        return read_config(path)
    except Exception as error:
        raise Fault(f'{path.name}: {type(error).__name__}: {error}') from error


# --- running

# A page may call source .venv/bin/activate: here the environment is the tests'.
_FUNCTIONS = """
source() { case "$1" in */bin/activate) ;; *) builtin source "$@" ;; esac; }
python() { case "${1-} ${3-}" in */train.py*) command python "$@" ARGS ;; *) command python "$@" ;; esac; }
"""


def blocks_to_run(document: Document) -> list[Block]:
    """With the configs that have a name; no blocks if there is nothing to run."""
    if all(block.marker != 'run' for block in document.blocks):
        return []
    return [block for block in document.blocks
            if block.marker == 'run' or (block.marker == 'config' and block.argument)]


def failure(document: Document, folder: Path, **env) -> str:
    """Run a document's blocks in a folder, and return the end of the output with the block that failed, or nothing."""
    path = os.pathsep.join((os.path.dirname(sys.executable), os.environ['PATH']))
    result = python('-m', __name__, json.dumps(blocks_to_run(document)), check=False, cwd=folder, PYTHONPATH=ROOT,
                    PYTHONUNBUFFERED=1, OMP_NUM_THREADS=1, PATH=path, **env)
    return '\n'.join(result.stdout.splitlines()[-31:]) or 'no output' if result.returncode else ''


def run_blocks(blocks: list[Block]) -> None:
    """In a process of its own, whose last line of output names the block that failed."""
    os.dup2(1, 2)
    namespace = {'__name__': '__main__'}
    for block in blocks:
        print(f'--- {block.where}', flush=True)
        try:
            if block.marker == 'config':
                Path(block.argument).write_text(block.text, encoding='utf-8')
            elif block.language == 'sh':
                text = _FUNCTIONS.replace('ARGS', block.argument) + block.text
                subprocess.run(['bash', '-eu', '-o', 'pipefail', '-c', text], check=True)
            else:
                _run_python(block, namespace)
        except subprocess.CalledProcessError as error:
            sys.exit(f'{block.where}: the block ended with status {error.returncode}')
        except BaseException:
            traceback.print_exc()
            sys.exit(f'{block.where}: the block ended with this error')


def _run_python(block: Block, namespace: dict) -> None:
    """Statement by statement, with the lines of the page; ``# -> TEXT`` is compared with what its statement prints."""
    tokens = tokenize.generate_tokens(io.StringIO(block.text).readline)
    texts = {block.line + token.start[0]: re.sub(r'# *-> *', '', token.string).strip() for token in tokens
             if token.type == tokenize.COMMENT and re.match(r'# *->', token.string)}
    for statement in ast.increment_lineno(ast.parse(block.text), block.line).body:
        expected = [text for line, text in texts.items() if statement.lineno <= line <= statement.end_lineno]
        printed = io.StringIO()
        with redirect_stdout(printed) if expected else nullcontext():
            exec(compile(ast.Module([statement], []), block.file, 'exec'), namespace)
        print(printed.getvalue(), end='')
        got = [line.strip() for line in printed.getvalue().splitlines()]
        if got != expected:
            raise AssertionError(f'{block.file}:{statement.end_lineno} prints {got}, and says {expected}')


if __name__ == '__main__':
    run_blocks([Block(*block) for block in json.loads(sys.argv[1])])
