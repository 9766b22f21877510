"""What the documents say is so: commands, configs, code, links, images, quoted errors. See support/documents.py."""
import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from mobileone_mm import ARCHS, MobileOne
from mobileone_mm.checkpoint.pretrained import cached_path
from mobileone_mm.engine.config import read_config
from mobileone_mm.utils.files import installed_file
from tests.support.documents import (
    Document,
    blocks_to_run,
    checkout,
    failure,
    faults,
    launchers,
    marker_faults,
    parse_document,
    read_document,
)
from tests.support.layouts import TO_APPLE, rename
from tests.support.paths import ROOT

PATHS = sorted(path for pattern in ('README.md', 'CONTRIBUTING.md', 'docs/*.md', 'configs/*/README.md')
               for path in ROOT.glob(pattern))
DOCUMENTS = [read_document(path) for path in PATHS]
# Of these a clone is made, in which blocks are run; the package is the environment's.
CLONE = ('benchmarks', 'configs', 'docs', 'tools', 'CHANGELOG.md', 'CONTRIBUTING.md', 'LICENSE', 'MANIFEST.in',
         'Makefile', 'NOTICE', 'README.md', 'model-index.yml', 'pyproject.toml', 'setup.py')


def each_document(documents):
    return pytest.mark.parametrize('document', documents, ids=[document.file for document in documents])


def listed(found) -> str:
    return ''.join(f'\n{fault}' for fault in found)


@each_document(DOCUMENTS)
def test_each_block_has_its_marker(document):
    assert not (found := list(marker_faults(document))), listed(found)


@each_document(DOCUMENTS)
def test_commands_and_configs_are_right(document, tmp_path):
    checkout(document, tmp_path)
    assert not (found := list(faults(document, tmp_path))), listed(found)


def test_launchers_are_understood():
    assert launchers() == {
        'tools/dist_test.sh': (['CONFIG', 'CHECKPOINT', 'NUM_PROCESSES'], 'tools/test.py'),
        'tools/dist_train.sh': (['CONFIG', 'NUM_PROCESSES'], 'tools/train.py'),
        'tools/slurm_test.sh': (['PARTITION', 'JOB_NAME', 'CONFIG', 'CHECKPOINT'], 'tools/test.py'),
        'tools/slurm_train.sh': (['PARTITION', 'JOB_NAME', 'CONFIG', 'WORK_DIR'], 'tools/train.py'),
    }


@pytest.fixture(scope='session')
def torch_home(tmp_path_factory):
    """torch's folder of downloads with S0 to S2 as Apple publishes them, but with random weights."""
    folder = tmp_path_factory.mktemp('torch_home')
    (folder / 'hub' / 'checkpoints').mkdir(parents=True)
    for arch in ('s0', 's1', 's2'):
        url = Config.fromfile(ROOT / 'configs' / '_base_' / f'mobileone_{arch}.py').mobileone.init_cfg.checkpoint
        weights = rename(MobileOne(arch, init_cfg=None).state_dict(), TO_APPLE)
        torch.save(weights, cached_path(url, str(folder / 'hub' / 'checkpoints')))
    return folder


@pytest.mark.slow
@each_document([document for document in DOCUMENTS if blocks_to_run(document)])
def test_blocks_run(document, torch_home, tmp_path):
    for name in CLONE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__', '_build'))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, tmp_path)
    output = failure(document, tmp_path, TORCH_HOME=torch_home)
    assert not output, f'\n{output}'


@pytest.fixture
def build(torch_home, tmp_path, monkeypatch):
    """Build the model of a page's first config that has a text, below the base that it speaks of."""

    def build_below(base, library, file, having=''):
        monkeypatch.setenv('TORCH_HOME', str(torch_home))
        blocks = read_document(ROOT / file).blocks
        text = next(block.text for block in blocks if block.marker == 'config' and having in block.text)
        (tmp_path / 'own.py').write_text(f'_base_ = {installed_file(library, f"configs/{base}")!r}\n{text}')
        cfg = read_config(tmp_path / 'own.py')
        init_default_scope(library)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.backbone.init_weights()
        assert isinstance(model.backbone, MobileOne)
        return model

    return build_below


@pytest.mark.slow
@pytest.mark.parametrize('file', ['README.md', 'docs/own_config.md'])
def test_the_backbone_in_a_config_of_mmdet(file, build):
    model = build('retinanet/retinanet_r50_fpn_1x_coco.py', 'mmdet', file)
    maps = model.neck(model.backbone(torch.rand(2, 3, 64, 64)))
    assert [x.shape[1] for x in maps] == 5 * [256]


@pytest.mark.slow
@pytest.mark.parametrize('base', ['deeplabv3', 'fcn', 'pspnet'])
def test_the_backbone_in_a_config_of_mmseg(base, build):
    model = build(f'_base_/models/{base}_r50-d8.py', 'mmseg', 'docs/own_config.md', 'auxiliary_head').eval()
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 19, 4, 4)


# --- the README, links and images

def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 150


@pytest.mark.parametrize('file', ['README.md', 'docs/own_config.md'])
def test_the_channel_tables_are_right(file):
    text = (ROOT / file).read_text(encoding='utf-8')
    rows = re.findall(r'^\| (`?s\d.*?) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$', text, flags=re.M)
    found = {arch: tuple(map(int, channels)) for names, *channels in rows for arch in re.findall(r's\d\w*', names)}
    assert found == {arch: tuple(MobileOne(arch, out_indices=(0, 1, 2, 3), deploy=True).out_channels) for arch in ARCHS}


@each_document(DOCUMENTS)
def test_nothing_is_left_to_do(document):
    assert not [number for number, line in document.prose if 'TODO' in line]


def link_faults(document: Document, root: Path) -> Iterator[str]:
    """Links into the repository that lead nowhere, and anchors without a heading."""
    for number, line in document.prose:
        line = re.sub(r'(`+)(?!`).*?(?<!`)\1(?!`)', '', line)
        links = re.findall(r'\]\(\s*<?([^)>\s]+)|(?:src|srcset|href)="([^"]+)"|^\s*\[[^\]]+\]:\s*(\S+)', line)
        for link in map(''.join, links):
            if re.match(r'[a-z][a-z+.-]*:', link):
                continue
            name, _, anchor = link.partition('#')
            path = (root / document.file).parent / name if name else root / document.file
            if not path.exists() or name.startswith('/'):
                yield f'{document.file}:{number}: {link} does not exist'
            elif anchor and path.suffix == '.md' and anchor not in anchors(read_document(path.resolve(), root)):
                yield f'{document.file}:{number}: {name or document.file} has no heading for #{anchor}'


def anchors(document: Document) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    found = set()
    for _, line in document.prose:
        if heading := re.match(r'#{1,6}\s+(.*?)[\s#]*$', line):
            text = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', heading[1])  # of a link, its text
            slug = re.sub(r'[^\w\- ]', '', text.lower()).replace(' ', '-')
            names = (slug, *(f'{slug}-{i}' for i in range(1, 100)))
            found.add(next(name for name in names if name not in found))
    return found


@each_document([document for document in DOCUMENTS if not document.file.startswith('docs/')])
def test_links_lead_somewhere(document):
    """Those of docs are checked where the site is built."""
    assert not (found := list(link_faults(document, ROOT))), listed(found)


def test_images_are_small_and_used():
    images = [path for path in (ROOT / 'docs' / 'images').rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in images) < 1_000_000
    texts = ''.join(path.read_text(encoding='utf-8') for path in PATHS)
    unused = [path.name for path in images if path.relative_to(ROOT / 'docs').as_posix() not in texts]
    assert not unused, f'No document shows {", ".join(unused)}'


# --- quoted errors

def quote_faults(document: Document, messages: str) -> Iterator[str]:
    """Quotes below Troubleshooting that no message has: the first code of a row's first cell; … is any text."""
    is_there, quotes = False, 0
    for number, line in document.prose:
        if line.startswith('#'):
            is_there = 'troubleshooting' in line.lower()
        cell = re.match(r'\s*\|((?:\\\||[^|])*)\|', line)
        quote = re.search(r'(`+) ?(.+?) ?\1', cell[1]) if is_there and cell else None
        if quote:
            quotes += 1
            text = re.sub(r'^(\w*Error|Warning): ', '', quote[2].replace('\\|', '|'))
            pieces = [re.escape(' '.join(piece.split())) for piece in re.split(r'…|\.{3}', text)]
            if not re.search('[^\n]*'.join(pieces), messages):
                yield f'{document.file}:{number}: no message says {text!r}'
    if not quotes:
        yield f'{document.file}: there is no table of errors below Troubleshooting'


def messages_of(root: Path) -> str:
    """The texts in the package and its tools, each in a line, NUL for what is put into them; and the Makefile."""
    texts = []
    for path in [*(root / 'mobileone_mm').rglob('*.py'), *(root / 'tools').glob('*.py')]:
        tree = ast.parse(path.read_text(encoding='utf-8'))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                texts.append(''.join(str(part.value) if isinstance(part, ast.Constant) else '\0'
                                     for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                texts.append(node.value)
    lines = [*texts, *(root / 'Makefile').read_text(encoding='utf-8').splitlines()]
    return '\n'.join(' '.join(line.split()) for line in lines)


def test_quoted_errors_are_those_of_the_source():
    document = read_document(ROOT / 'docs' / 'install.md')
    assert not (found := list(quote_faults(document, messages_of(ROOT)))), listed(found)


# --- the checks themselves, on pages with one fault

def page(marker, language, text):
    return parse_document(f'# A page\n\n{marker}\n```{language}\n{text}\n```\n', 'docs/page.md')


@pytest.mark.parametrize('marker, language, text, expected', [
    ('', 'sh', 'make', '4: no marker'),
    ('<!-- run -->\n', 'sh', 'make', '5: no marker'),
    ('<!-- runs -->', 'python', 'a = 1', '4: no marker'),
    ('<!-- dry -->', 'bash', 'make', '4: the language is bash'),
    ('<!-- dry -->', '{code-block} sh', 'make', '4: the language is {code-block}'),
    ('<!-- run -->', 'text', 'make', '3: this marker is not'),
    ('<!-- dry -->', 'python', 'a = 1', '4: dry above a block in python'),
    ('<!-- config -->', 'sh', 'make', '4: config above a block in sh'),
    ('<!-- skip -->', 'sh', 'make', '4: skip has no reason'),
    ('<!-- dry: x -->', 'sh', 'make', '4: dry takes no arguments'),
    ('<!-- run: --amp -->', 'sh', 'python tools/test.py', '4: nothing takes'),
    ('<!-- config: a/b.py -->', 'python', 'a = 1', '4: the name of a config'),
])
def test_a_wrong_marker_is_found(marker, language, text, expected):
    found, *more = marker_faults(page(marker, language, text))
    assert found.startswith(f'docs/page.md:{expected}'), found
    assert all('this marker is not' in fault for fault in more)


def test_blocks_are_found_where_they_hide():
    """In lists, in longer fences, in directives; not in other blocks."""
    document = parse_document('\n'.join((
        '- item', '', '  <!-- dry -->', '  ```sh', '  make demo', '    -n', '  ```', '',
        '````{note}', '<!-- run -->', '```python', 'a = 1', '```', '````', '',
        '````text', '```sh', 'make', '```', '````', '', '~~~sh', 'make', '~~~', 'In ```text``` it goes on.')), 'a.md')
    assert [(block.line, block.language, block.marker, block.text) for block in document.blocks] == [
        (4, 'sh', 'dry', 'make demo\n  -n\n'), (11, 'python', 'run', 'a = 1\n'), (16, 'text', '', '```sh\nmake\n```\n'),
        (22, 'sh', '', 'make\n')]
    assert document.prose[-1] == (25, 'In ```text``` it goes on.')


S2 = 'configs/detection/ssdlite_mobileone_s2.py'
RIGHT = f"""\
source .venv/bin/activate
python tools/train.py {S2} --amp   # a comment
tools/dist_train.sh {S2} 8 --cfg-options \\
    model.backbone.init_cfg=None randomness.seed=3 model.backbone.with_cp=True
COCO_ROOT=/data tools/slurm_train.sh PARTITION JOB {S2} work_dirs/s2 --resume && echo trained
for size in s0 s1; do python tools/test.py configs/detection/ssdlite_mobileone_$size.py CHECKPOINT; done
python tools/benchmark.py configs/detection/ssdlite_mobileone_s{{0,1}}.py --shape H W
python tools/train.py own.py --cfg-options default_hooks.checkpoint_fit.ignore="[bbox_head.cls_convs]"
python tools/model_card.py --no-latency --log ssdlite_mobileone_s2=work_dirs/s2
python benchmarks/train_step.py --batch 1 4 > table.txt
python -m mobileone_mm mobileone_mm/predict.py IMAGES CONFIG model.onnx --out-dir out
python -m mobileone_mm env
python -m mobileone_mm mmdet/analysis_tools/get_flops.py {S2}
make demo TORCH='torch==2.13.0 --index-url URL'
pip install -e '.[onedl,export]' && pip install 'dist/mobileone_mm-0.1.0-py3-none-any.whl[onedl]'
"""


@pytest.mark.parametrize('line, expected', [
    (f'python tools/train.py {S2} --ampp', 'unrecognized arguments: --ampp'),
    (f'python tools/train.py {S2} --work out', 'unrecognized arguments: --work'),
    ('python tools/test.py CONFIG', 'required: checkpoint'),
    ('python tools/export.py CONFIG CKPT --out a.onnx --format onx', "invalid choice: 'onx'"),
    ('python tools/export.py CONFIG CKPT --out a.onnx --shape 1 two', 'invalid int value'),
    ('python tools/trian.py CONFIG', "no script 'tools/trian.py'"),
    ('python tools/train.py configs/detection/ssdlite_s{0,1}.py', 'unrecognized arguments'),
    ('python tools/train.py configs/detection/ssdlite_s0.py', 'no config'),
    (f'python tools/train.py {S2} --cfg-options model.backbon.arch=s0', 'Did you mean model.backbone'),
    ('python tools/train.py CONFIG --cfg-options model.backbon.arch=s0', 'Did you mean model.backbone'),
    (f'python tools/train.py {S2} --cfg-options amp', 'not enough values'),
    ('python benchmarks/nms.py --box 1', 'unrecognized arguments: --box'),
    ('python benchmarks/harness.py', 'takes no arguments'),
    ('python tools/model_card.py --log ssdlite=a', "no config 'ssdlite'"),
    ('python -m mobileone_mm mmdet/get_flops.py', 'no script'),
    ('python -m mobileone_mm mobileone_mm/tests.py', 'no script'),
    ('python -m this', "unknown module 'this'"),
    (f'tools/dist_train.sh {S2}', 'takes CONFIG NUM_PROCESSES'),
    (f'tools/dist_test.sh {S2} 8 CHECKPOINT', "a number of processes, got 'CHECKPOINT'"),
    (f'GPUS=8 tools/slurm_train.sh PARTITION {S2} work_dirs', 'takes PARTITION JOB_NAME CONFIG WORK_DIR'),
    ('tools/dist_tran.sh CONFIG 8', 'dist_tran.sh: No such file'),
    ('make demos', "no target 'demos'"),
    ('make demo TORHC=1', "no variable 'TORHC'"),
    ("make demo VENV='a b'", 'VENV is one folder'),
    ("pip install -e '.[onnx]'", 'no extra onnx'),
    ("pip install 'dist/mobileone_mm-0.0.1-py3-none-any.whl[onedl]'", 'the version is'),
    ('pip install -r docs/nothing.txt', "no 'docs/nothing.txt'"),
    ('frobnicate', "unknown command 'frobnicate'; teach"),
    ('--cfg-options model.backbone.init_cfg=None', '--cfg-options without the command'),
    ('if true', 'syntax error'),
])
def test_a_wrong_command_is_found(line, expected, tmp_path):
    """In a block without other faults, which has it in its last line."""
    document = page('<!-- dry -->', 'sh', RIGHT + line)
    checkout(document, tmp_path)
    found, = faults(document, tmp_path)
    line = 4 if expected in ('syntax error', 'dist_tran.sh: No such file') else 5 + RIGHT.count('\n')
    assert found.startswith(f'docs/page.md:{line}: ') and expected in found, found


@pytest.mark.parametrize('marker, language, text, line, expected', [
    ('<!-- config -->', 'python', f"_base_ = '{S2[:-3]}0.py'", 4, 'config_in_line_4.py: MissingFileError'),
    ('<!-- config -->', 'python', 'optim_wrapper = 1', 4, 'has no model'),
    ('<!-- config: own.py -->', 'python', 'model = dict(', 5, 'never closed'),
    ('<!-- run -->', 'python', 'a = 1\nb = = 2', 6, 'invalid syntax'),
    ('<!-- run -->', 'sh', 'frobnicate\npython tools/train.py --no CONFIG', 6, 'unrecognized arguments: --no'),
    ('<!-- run: --no -->', 'sh', 'python tools/train.py CONFIG', 5, 'unrecognized arguments: --no'),
    ('<!-- run -->', 'sh', 'make demo', 5, 'make changes the environment'),
])
def test_a_wrong_config_or_code_is_found(marker, language, text, line, expected, tmp_path):
    document = page(marker, language, text)
    checkout(document, tmp_path)
    found, = faults(document, tmp_path)
    assert found.startswith(f'docs/page.md:{line}: ') and expected in found, found


def test_commands_know_the_configs_of_their_page(tmp_path):
    text = f"```python\n_base_ = '{S2}'\nextra = dict(a=1)\n```\n"
    command = '```sh\npython tools/train.py own.py --cfg-options extra.a=2 extras.a=1\n```\n'
    document = parse_document(f'<!-- config: own.py -->\n{text}<!-- dry -->\n{command}', 'page.md')
    checkout(document, tmp_path)
    found, = faults(document, tmp_path)
    assert found.startswith('page.md:8: ') and "the config has no 'extras' so far" in found


def test_runs_of_a_page(tmp_path):
    """One folder, one namespace, in the order of the page."""
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools' / 'train.py').write_text('import sys\nprint(sys.argv[1:])\n')
    text = """
<!-- run: --seed "1 2" -->
```sh
source .venv/bin/activate
mkdir out
python tools/train.py a \\
    --amp > out/said   # a comment
```
<!-- run -->
```python
import sys
said = open('out/said').read().strip()
print('mobileone_mm' in sys.modules)  # -> False
```
<!-- config: own.py -->
```python
a = 1
```
<!-- run -->
```python
print(said)  # -> ['a', '--amp', '--seed', '1 2']
for line in open('own.py'):
    print(line.strip())  # -> a = 1
```
"""
    document = parse_document(text, 'page.md')
    assert failure(document, tmp_path) == ''
    wrong = [
        (text.replace('\na = 1', '\na = 2'), "page.md:23 prints ['a = 2'], and says ['a = 1']", 20),
        (text.replace('False', 'True'), "page.md:13 prints ['False'], and says ['True']", 10),
        (text.replace('print(said)', 'print(sad)'), 'File "page.md", line 21', 20),
        (text.replace('mkdir out', 'false'), '', 3),
        (text.replace('--amp >', '--amp $NO >'), 'NO: unbound variable', 3),
    ]
    for changed, expected, line in wrong:
        shutil.rmtree(tmp_path / 'out', ignore_errors=True)
        output = failure(parse_document(changed, 'page.md'), tmp_path)
        last = output.rpartition('\n')[2]
        assert expected in output and last.startswith(f'page.md:{line}: the block ended with'), output


@pytest.mark.parametrize('line, expected', [
    ('[a](b.md), [c](docs/a.md#two-words-here), ![d](docs) and [e](https://x.org/#y)', None),
    ('[![badge](docs/a.md)](#a-page), `[x](y)`, ``[`](z)`` and <a href="docs/a.md#two-words-here-1">b</a>', None),
    ('[a](docs/b.md)', 'docs/b.md does not exist'),
    ('[![badge](docs/b.png)](b.md)', 'docs/b.png does not exist'),
    ('<img src="b.png">', 'b.png does not exist'),
    ('[a]: docs/c.md', 'docs/c.md does not exist'),
    ('[a](/README.md)', '/README.md does not exist'),
    ('[a](docs/a.md#two-words)', 'docs/a.md has no heading for #two-words'),
    ('[a](#no)', 'README.md has no heading for #no'),
])
def test_a_wrong_link_is_found(line, expected, tmp_path):
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'docs' / 'a.md').write_text('## Two `words`, [here](x.md)\n```sh\n# no\n```\n### Two words here\n')
    (tmp_path / 'b.md').touch()
    (tmp_path / 'README.md').write_text(f'# A page\n\n{line}\n')
    found = list(link_faults(read_document(tmp_path / 'README.md', tmp_path), tmp_path))
    assert found == ([f'README.md:3: {expected}'] if expected else [])


@pytest.mark.parametrize('rows, expected', [
    ('| `Error: Config … does not exist. Ours` | Use `one` |\n| ``has no model`` |', None),
    ('| `is unfinished: an installation` and more | |\n| libGL | `nothing` |', None),
    ('| `has no model` | |\n| `has no models` | |', "page.md:6: no message says 'has no models'"),
    ('| `There is no such thing` | |', "page.md:5: no message says 'There is no such thing'"),
    ('', 'page.md: there is no table of errors below Troubleshooting'),
])
def test_a_wrong_quote_is_found(rows, expected):
    text = f'## Troubleshooting\n\n| error | remedy |\n| --- | --- |\n{rows}\n\n## Others\n| `no such` | |\n'
    assert list(quote_faults(parse_document(text, 'page.md'), messages_of(ROOT))) == ([expected] if expected else [])
