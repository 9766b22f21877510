"""The wheel is all that training and testing need; the tables' numbers are the code's."""
import re
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mobileone_mm import reparameterize_model
from tests.support import detection
from tests.support.paths import ROOT
from tests.support.runs import python, run


def pip(*arguments):
    return python('-m', 'pip', '--disable-pip-version-check', *arguments)


@pytest.mark.slow
def test_wheel_in_another_environment(tmp_path):
    pip('wheel', '--no-deps', '-q', '-w', tmp_path, ROOT)
    wheel = next(tmp_path.glob('mobileone_mm-*.whl'))
    names = zipfile.ZipFile(wheel).namelist()
    sources = {str(path.relative_to(ROOT)) for folder in ('configs', 'tools') for path in (ROOT / folder).rglob('*')
               if path.is_file() and '__pycache__' not in path.parts} | {'model-index.yml'}
    assert {name.removeprefix('mobileone_mm/.mim/') for name in names if '.mim/' in name} == sources
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'mobileone_mm').rglob('*.py')}
    modules = {name for name in modules if '.mim/' not in name}
    assert {name for name in names if '.mim/' not in name and '.dist-info/' not in name} == modules  # no stale ones
    # Another environment, with the libraries of this one, but not this project.
    python('-m', 'venv', tmp_path / 'env')
    other = tmp_path / 'env' / 'bin' / 'python'
    site = next((tmp_path / 'env' / 'lib').glob('python*/site-packages'))
    (site / 'borrowed.pth').write_text('\n'.join(path for path in sys.path if path.endswith('site-packages')))
    run(other, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--force-reinstall', wheel)
    # From another folder, without the repository: trains and tests by the configs in the wheel.
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    installed = dict(cwd=elsewhere, PYTHONPATH='', SHAPES_ROOT=elsewhere / 'shapes')
    mim = site / 'mobileone_mm' / '.mim'
    config, module = mim / detection.SHAPES, ['-m', 'mobileone_mm']
    result = run(other, *module, 'mobileone_mm/train.py', detection.SHAPES, check=False, **installed)
    assert result.returncode == 1 and f'does not exist. Ours are below {mim}/configs.' in result.stderr
    assert str(mim.parent) in run(other, '-c', 'import mobileone_mm; print(mobileone_mm.__file__)', **installed).stdout
    run(other, mim / 'tools' / 'make_shapes.py', 'shapes', '--num-train', 8, '--num-val', 4, '--size', 64, **installed)
    run(other, *module, 'mobileone_mm/train.py', config, *detection.options(), **installed)
    run(other, *module, 'mobileone_mm/test.py', config, f'work_dirs/{config.stem}/epoch_2.pth', '--work-dir', 'test',
        *detection.options(), **installed)
    assert detection.metrics(elsewhere / 'test') == detection.metrics(elsewhere / 'work_dirs' / config.stem)


@pytest.mark.slow
def test_without_the_mm_libraries(tmp_path):
    """As pip install leaves it without an extra: with torch and numpy, and one line about the rest."""
    python('-m', 'venv', tmp_path / 'env')
    site = next((tmp_path / 'env' / 'lib').glob('python*/site-packages'))
    (site / 'mobileone_mm').symlink_to(ROOT / 'mobileone_mm')
    packages = [path for folder in sys.path if folder.endswith('site-packages') for path in Path(folder).iterdir()]
    for path in packages:
        if not path.name.startswith(('mm', 'onedl', 'mobileone', '__editable__')) and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    for command in (['-c', 'import mobileone_mm'], ['-m', 'mobileone_mm', 'a.py'], [ROOT / 'tools/predict.py']):
        result = run(tmp_path / 'env' / 'bin' / 'python', *command, check=False, PYTHONPATH='')
        assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr
        assert 'Error: mobileone_mm needs mmengine and mmcv, not installed here.' in result.stderr
        assert "pip install 'mobileone_mm[onedl]'" in result.stderr


@pytest.mark.slow
def test_editable_install_links_configs_and_tools(tmp_path):
    python('-m', 'venv', '--system-site-packages', tmp_path / 'env')
    other = tmp_path / 'env' / 'bin' / 'python'
    run('cp', '-r', *[ROOT / name for name in ('mobileone_mm', 'configs', 'tools', 'setup.py', 'pyproject.toml',
                                               'README.md', 'MANIFEST.in', 'LICENSE', 'NOTICE', 'model-index.yml')],
        tmp_path)
    run('rm', '-rf', tmp_path / 'mobileone_mm' / '.mim')
    run(other, '-m', 'pip', 'install', '-q', '--no-deps', '-e', tmp_path)
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (tmp_path / 'mobileone_mm' / '.mim' / name).resolve() == (tmp_path / name).resolve()


def test_an_interrupted_installation_starts_anew(tmp_path):
    """In either step; but an environment that make did not create stays as it is."""

    def program(path, line):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\n{line}\n')
        path.chmod(0o755)
        return path

    def make(target, folder):
        result = run('make', target, f'VENV={folder}', f'PYTHON={stub}', check=False)
        assert result.returncode == 2
        return result.stdout, sorted(path.name for path in folder.iterdir() if path.name != 'bin')

    stub = program(tmp_path / 'python', 'test "$1" != -m')  # which makes no environment, as without python3-venv
    ours, own = tmp_path / 'ours', tmp_path / 'own'
    for folder, names in ((ours, ('.made', '.installed')), (own, ('kept', '.installed'))):
        program(folder / 'bin' / 'pip', 'exit 1')  # as Ctrl-C ends it
        program(folder / 'bin' / 'python', 'exit 0')
        for name in names:
            (folder / name).touch()
    assert make('install-test', ours)[1] == ['.made', '.unfinished']
    assert make('install-test', own)[1] == ['kept']
    printed, left = make('install', ours)
    assert 'It is made anew' in printed and 'apt-get install python3-venv' in printed
    assert left == ['.made', '.unfinished'] and not (ours / 'bin').exists()
    printed, left = make('install', own)
    assert 'made anew' not in printed and left == ['kept'] and (own / 'bin').exists()


# Folder, side length of the input, unit and digits of MACs.
TABLES = {'mmdet': ('detection', 320, 1e6, 0), 'mmseg': ('segmentation', 512, 1e9, 1),
          'mmpretrain': ('pretraining', 224, 1e6, 0)}
# The rest is in the test of the model card, which counts by a class of its own.
CONFIGS = sorted(path for folder in TABLES.values() for path in (ROOT / 'configs' / folder[0]).glob('*_s0*.py')
                 if 'shapes' not in path.name)


@pytest.mark.parametrize('config', [
    pytest.param(path, id=path.stem, marks=[] if path.stem == 'ssdlite_mobileone_s0' else [pytest.mark.slow])
    for path in CONFIGS])
def test_the_tables_beside_the_configs(config):
    """Parameters and MACs of the whole detector, segmentor or classifier, train form and deploy form."""
    row = re.search(rf'\| \[{config.stem}\].*?\| ([\d.]+) → ([\d.]+) \| ([\d.]+) → ([\d.]+) \|',
                    (config.parent / 'README.md').read_text())
    if config.parent.name == 'pretraining':
        pytest.importorskip('mobileone_mm.tasks.pretraining', exc_type=ImportError)
    cfg = Config.fromfile(config)
    _, size, unit, digits = TABLES[cfg.default_scope]
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    measured = []
    for form in (model.train(), reparameterize_model(model).eval()):
        form.forward = getattr(form, '_forward', form.forward)  # a classifier's takes a tensor as it is
        info = get_model_complexity_info(form, inputs=torch.zeros(2, 3, size, size), show_table=False, show_arch=False)
        measured.append((f'{info["params"] / 1e6:.2f}', f'{info["flops"] / 2 / unit:.{digits}f}'))
    assert [(row[1], row[3]), (row[2], row[4])] == measured
