"""Tools end in one line for our errors, said once, and with a traceback for all others."""
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mobileone_mm.apis.launch import test as run_test
from mobileone_mm.apis.launch import train
from mobileone_mm.apis.options import load_config
from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.apis.train_options import prepare_train
from mobileone_mm.engine.config import config_from_file
from mobileone_mm.utils import errors
from mobileone_mm.utils.errors import ConfigError, DiskError, MissingFileError, MissingPackageError, MobileOneError
from mobileone_mm.utils.files import atomic_file, make_folder
from tests.support import detection
from tests.support.paths import ROOT
from tests.support.runs import python, run_distributed

SHAPES = detection.SHAPES


def test_all_derive_from_one_class_and_from_a_built_in_one():
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(classes) > 5
    for each in classes:
        assert issubclass(each, MobileOneError)
        built_in = {base for base in each.__mro__ if base.__module__ == 'builtins'} - {Exception, BaseException, object}
        assert each is MobileOneError or built_in
        assert str(each('words')) == 'words'


# --- how a tool ends

def ending(error, capsys):
    """Exit status and stderr of a tool that ends by an error of ours, or by Ctrl-C."""
    with pytest.raises(SystemExit) as end, errors.errors_in_one_line():
        raise error
    return end.value.code, capsys.readouterr().err.strip()


def test_one_line_for_ours_only(capsys, monkeypatch):
    code = "from mobileone_mm.utils.errors import *\nwith errors_in_one_line():\n    raise ArgumentError('words')"
    result = python('-c', code, check=False)
    assert (result.returncode, result.stderr.strip()) == (1, 'Error: words')
    assert ending(errors.ArgumentError('words'), capsys) == (1, 'Error: words')
    assert ending(KeyboardInterrupt(), capsys) == (130, 'Interrupted.')
    for other in (ValueError('words'), FileNotFoundError('words'), ImportError('words'), KeyError()):
        with pytest.raises(type(other)) as raised, errors.errors_in_one_line():
            raise other
        assert raised.value is other and not capsys.readouterr().err
    monkeypatch.setenv('MOBILEONE_MM_TRACEBACK', '1')
    for ours in (errors.ArgumentError('words'), KeyboardInterrupt()):
        with pytest.raises(type(ours)) as raised, errors.errors_in_one_line():
            raise ours
        assert raised.value is ours


@pytest.mark.parametrize('variables, prints', [
    (dict(RANK='1'), False), (dict(SLURM_PROCID='1'), False), (dict(OMPI_COMM_WORLD_RANK='1'), False),
    (dict(RANK='0'), True), (dict(SLURM_PROCID='0'), True), (dict(RANK='0', SLURM_PROCID='1'), True)], ids=str)
def test_one_of_several_processes_prints(variables, prints, capsys, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ending(errors.ArgumentError('words'), capsys) == (1, 'Error: words' if prints else '')


@pytest.mark.parametrize('ranks', ['1', '01', pytest.param('0', marks=pytest.mark.slow)])
def test_an_error_of_any_rank_is_printed_once(ranks, tmp_path):
    """Two gloo processes, without torchrun: process 0 holds the store."""
    code = f'''
from torch import distributed
from mobileone_mm.utils.errors import *
with errors_in_one_line():
    distributed.init_process_group('gloo', init_method='file://{tmp_path}/store', rank=int(sys.argv[1]), world_size=2)
    if sys.argv[1] in {ranks!r}:
        raise DataError('words')
'''.replace("\nfrom torch", "\nimport sys\nfrom torch", 1)
    outputs = _two(code, {})
    assert ''.join(output for _, output in outputs).count('Error: words') == 1
    assert [code for code, _ in outputs] == [int(str(rank) in ranks) for rank in range(2)]
    port = str(20000 + os.getpid() % 20000)
    outputs = _two(re.sub(r"init_method=.*, rank", 'rank', code), dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port))
    assert ''.join(output for _, output in outputs).count('Error: words') == 1


def _two(code, variables):
    """Exit status and stderr of a script run twice at the same time, with 0 and with 1."""
    processes = [subprocess.Popen([sys.executable, '-c', code, str(rank)], cwd=ROOT, text=True, stderr=subprocess.PIPE,
                                  env=os.environ | dict(PYTHONPATH=str(ROOT), RANK=str(rank)) | variables)
                 for rank in range(2)]
    try:
        return [(process.wait(timeout=120), process.stderr.read()) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_two_processes_say_once_that_data_is_missing(tmp_path):
    result = run_distributed('tools/dist_train.sh', SHAPES, '--work-dir', tmp_path / 'work', check=False,
                             SHAPES_ROOT=tmp_path / 'nowhere')
    assert result.returncode != 0 and result.stderr.count('Error: The data of') == 1


# --- in the middle of training

RAISED = {
    'categories': KeyError('categories'), 'bare': KeyError(), 'json': json.JSONDecodeError('no JSON', '{', 1),
    'numpy': ValueError('need at least one array to concatenate'), 'file': FileNotFoundError(2, 'no such file'),
}


@HOOKS.register_module()
class RaisingHook(Hook):
    """A user's hook, with a fault."""

    def __init__(self, name):
        self.name = name

    def after_train_iter(self, runner, *args, **kwargs):
        raise RAISED[self.name]


def short_run(root, work, monkeypatch, **more):
    monkeypatch.setenv('SHAPES_ROOT', str(root))
    assignments = detection.options('s0', 1)[1:]
    from mmengine.config import DictAction
    options = {key: DictAction._parse_iterable(value)
               for key, _, value in (each.partition('=') for each in assignments)}
    return prepare_train(ROOT / SHAPES, work_dir=work, cfg_options=options | more)


@pytest.mark.parametrize('name', RAISED)
def test_errors_of_a_hook_stay_as_they_are(name, shapes_root, tmp_path, monkeypatch):
    cfg = short_run(shapes_root, tmp_path, monkeypatch, custom_hooks=[dict(type='mmengine.RaisingHook', name=name)])
    with pytest.raises(type(RAISED[name])) as raised:
        train(cfg)
    assert raised.value is RAISED[name]


def test_a_full_disk_in_a_hook(shapes_root, tmp_path, monkeypatch):
    """A clear message, with the original as its cause."""
    monkeypatch.setitem(RAISED, 'full', OSError(28, 'No space left on device', 'some.log'))
    cfg = short_run(shapes_root, tmp_path, monkeypatch, custom_hooks=[dict(type='mmengine.RaisingHook', name='full')])
    message = r"Could not write: .*No space left on device: 'some.log'. There is no ch"
    with pytest.raises(DiskError, match=message) as raised:
        train(cfg)
    assert raised.value.__cause__ is RAISED['full']


# --- files

def test_what_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('precious')
    for act in (lambda: make_folder(tmp_path / 'file' / 'folder'),
                lambda: atomic_file(tmp_path / 'file' / 'a').__enter__()):
        with pytest.raises(DiskError, match=r"Could not write '.*/file/?.*': (Not a directory|File exists)") as raised:
            act()
        assert isinstance(raised.value.__cause__, OSError)
    with pytest.raises(DiskError, match='is a folder; name a file'), atomic_file(tmp_path):
        raise AssertionError


def test_errors_inside_of_atomic_file_stay_as_they_are(tmp_path):
    for error in (FileNotFoundError('an input'), RuntimeError('of torch'), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, atomic_file(tmp_path / 'out') as file:
            file.write(b'half')
            raise error
        assert raised.value is error and not list(tmp_path.iterdir())


def test_a_full_disk_behind_another_error(tmp_path):
    """torch.save ends with a RuntimeError; the message has the disk's reason."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(DiskError, match="out': File too large"), atomic_file(tmp_path / 'out') as file:
            torch.save(dict(x=torch.zeros(100_000)), file)
        with pytest.raises(DiskError, match='File too large'), atomic_file(tmp_path / 'out') as file:
            file.write(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_shapes_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    result = python('tools/make_shapes.py', tmp_path / 'file' / 'shapes', '--num-train', 1, '--num-val', 1, check=False)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert re.search(r"Error: Could not write '.*/file/shapes': Not a directory", result.stderr)


# --- configs

@pytest.mark.parametrize('former, now', [
    ('ssd', 'detection'), ('deeplabv3', 'segmentation'), ('pretraining', 'pretraining')])
def test_a_config_of_an_earlier_run(former, now, tmp_path):
    config = tmp_path / 'dumped.py'
    modules = ['mobileone_mm', f'mobileone_mm.{former}']
    config.write_text(f'custom_imports = dict(imports={modules}, allow_failed_imports=False)\n')
    with pytest.raises(ConfigError, match=rf'imports {modules[1]}, which is now mobileone_mm\.tasks\.{now}\. Replace'):
        config_from_file(config)


def test_a_config_of_an_earlier_run_under_a_tool_of_mm(tmp_path):
    config = tmp_path / 'dumped.py'
    config.write_text("custom_imports = dict(imports=['mobileone_mm.ssd'], allow_failed_imports=False)\n")
    result = python('-m', 'mobileone_mm', 'mmdet/test.py', config, 'checkpoint.pth', check=False)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert re.search(r'Error: test\.py or its config imports mobileone_mm\.ssd, which is now', result.stderr)


def test_without_the_stand_in_and_without_operators(tmp_path):
    if importlib.util.find_spec('mmcv._ext') is not None:
        pytest.skip('mmcv has compiled operators here')
    result = python('tools/test.py', SHAPES, 'checkpoint.pth', check=False, MOBILEONE_MM_COMPAT='0')
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert re.search(r'Error: Config .* needs compiled operators .*MOBILEONE_MM_COMPAT=0: unset it', result.stderr)


def test_reading_a_config_leaves_the_environment_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', '')
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    before = dict(os.environ)
    cfg = load_config(SHAPES, work_dir=tmp_path)
    assert cfg.train_dataloader.dataset.data_root.rstrip('/') != '' and dict(os.environ) == before


def test_the_apis_return_what_a_runner_returns(tiny_detector, shapes_root, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    config, checkpoint = tiny_detector
    metrics = run_test(prepare_test(config, checkpoint, work_dir=tmp_path / 'test'))
    assert 0 <= metrics['coco/bbox_mAP'] <= 1
    prepare_test(config, checkpoint, work_dir=tmp_path, show_dir=tmp_path / 'drawn').dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').default_hooks.visualization.test_out_dir == str(tmp_path / 'drawn')
    model = train(prepare_train(config, work_dir=tmp_path / 'train', cfg_options={'train_cfg.max_epochs': 1}))
    assert type(model).__name__ == 'SingleStageDetector'


def test_other_imports_of_a_config_keep_their_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'own_module.py').write_text('from mobileone_mm import no_such_name\n')
    for module in ('own_module', 'no_module_at_all', 'mobileone_mm.no_module'):
        (tmp_path / 'config.py').write_text(
            f"custom_imports = dict(imports=['{module}'], allow_failed_imports=False)\n")
        with pytest.raises(ImportError) as raised:
            config_from_file(tmp_path / 'config.py')
        assert not isinstance(raised.value, MobileOneError)


def test_a_config_whose_library_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmdet', None)
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['mmdet'], allow_failed_imports=False)\n")
    message = 'needs mmdet, which is not installed. .*pip install onedl-mmdetection'
    with pytest.raises(MissingPackageError, match=message):
        config_from_file(tmp_path / 'config.py')


def test_configs_that_cannot_be_read(tmp_path):
    (tmp_path / 'config.py').write_text("_base_ = 'nothing.py'\n")
    with pytest.raises(MissingFileError, match='has a _base_ that is missing: .*nothing.py'):
        config_from_file(tmp_path / 'config.py')
    (tmp_path / 'own.py').write_text("open('/nothing/at/all')\n")
    with pytest.raises(FileNotFoundError) as raised:
        config_from_file(tmp_path / 'own.py')
    assert not isinstance(raised.value, MobileOneError)
    (tmp_path / 'config.txt').write_text('')
    with pytest.raises(ConfigError, match=r'neither a \.py'):
        config_from_file(tmp_path / 'config.txt')
