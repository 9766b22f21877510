"""What an import changes in other libraries: what is listed, safely, switchable, and nothing for other models."""
import json
import os
import pickle
import runpy
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import mmengine
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, load_checkpoint
from mmengine.runner import checkpoint as mmengine_checkpoint

import mobileone_mm
from mobileone_mm import MobileOne, compat
from mobileone_mm.checkpoint import pretrained
from mobileone_mm.checkpoint.pretrained import load_pretrained
from mobileone_mm.checkpoint.read import read_checkpoint
from mobileone_mm.compat.mmcv_ops import has_compiled_ops
from mobileone_mm.utils.errors import CheckpointError, DiskError, MissingOperatorError, MobileOneError
from tests.support.runs import python

needs_stand_in = pytest.mark.skipif(has_compiled_ops(), reason='mmcv has compiled operators here')
# A file that is there is used, so nothing is fetched.
URL = 'https://example.invalid/some/folder/'


def run(code, *arguments, **kwargs):
    """What Python code in a process of its own prints as JSON in its last line."""
    return json.loads(python('-W', 'ignore', '-c', code, *arguments, **kwargs).stdout.splitlines()[-1])


class Harmful:
    """Unpickled without care, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace), )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Torch hub's folder of checkpoints."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch_home'))
    folder = tmp_path / 'torch_home' / 'hub' / 'checkpoints'
    folder.mkdir(parents=True)
    return folder


def damage(path, value=1234.5):
    """Change a float in the file, whose checksum is then wrong; torch does not notice."""
    content, old = path.read_bytes(), np.float32(value).tobytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, np.float32(-value).tobytes()))


# --- nothing changes for checkpoints without MobileOne

LOAD = '''
import json, logging, sys
import torch
{first}
from mmcv.cnn import ResNet
from mmengine.logging import MMLogger
from mmengine.runner import CheckpointLoader, load_checkpoint

lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
MMLogger.get_current_instance().addHandler(handler)

def plain(value):
    if isinstance(value, dict):
        return {{str(key): plain(item) for key, item in value.items()}}
    return [value.shape, value.sum().item()] if isinstance(value, torch.Tensor) else repr(value)

results = {{}}
for name in sys.argv[1:]:
    torch.manual_seed(0)
    model = ResNet(18)
    try:
        returned = load_checkpoint(model, name, logger='current')
    except Exception as error:
        returned = repr(error)
    results[name] = [plain(CheckpointLoader.load_checkpoint(name, 'cpu')), plain(returned), plain(model.state_dict())]
print(json.dumps([results, lines]))
'''


def test_other_checkpoints_load_as_without_us(tmp_path, hub):
    """A ResNet's: the same content, weights, messages and cache."""

    def weights(value):
        return {'conv1.weight': torch.full((64, 3, 7, 7), value), 'bn1.weight': torch.ones(64)}

    contents = {
        'bare.pth': weights(1.),
        'ema.pth': dict(state_dict=weights(2.), state_dict_ema=weights(3.), meta=dict(epoch=1)),
        'model_ema.pth': dict(state_dict=weights(2.), model_ema=weights(3.)),
        'model.pth': dict(model=weights(4.)),
        'no_weights.pth': dict(state_dict=None),
        'strange_keys.pth': {1: torch.ones(1)},
        'list.pth': [torch.ones(2), 3],
        'damaged.pth': {'fc.bias': torch.tensor([1234.5])},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
        torch.save(content, hub / name)
    damage(tmp_path / 'damaged.pth')
    torch.save(contents['ema.pth'], tmp_path / 'legacy.pth', _use_new_zipfile_serialization=False)
    home = tmp_path / 'mmengine_home'
    home.mkdir()
    (home / 'open_mmlab.json').write_text(json.dumps({'ours': f'{URL}ema.pth', 'local': 'ema.pth'}))
    torch.save(contents['ema.pth'], home / 'ema.pth')
    names = [*(str(tmp_path / name) for name in (*contents, 'legacy.pth')), *(URL + name for name in contents),
             'open-mmlab://ours', 'openmmlab://local']
    without = run(LOAD.format(first=''), *names, MMENGINE_HOME=home)
    with_us, switched_off = (run(LOAD.format(first='import mobileone_mm'), *names, MMENGINE_HOME=home, **env)
                             for env in ({}, dict(MOBILEONE_MM_COMPAT='0')))
    assert [line for line in without[1] if line.startswith('Loads')] == [
        f'Loads checkpoint by {backend} backend from path: {name}' for name in names for backend in [
            'http' if 'http' in name else 'openmmlab' if 'mmlab://' in name else 'local'] * 2]
    for got in (with_us, switched_off):
        assert got[1] == without[1]
        for name in names:
            assert got[0][name] == without[0][name], name
    assert sorted(path.name for path in hub.iterdir()) == sorted(contents)


def test_hub_cache_is_used_for_mobileone_too(hub):
    torch.save(MobileOne('s0').state_dict(), hub / 'weights.pth')
    assert load_pretrained(f'{URL}weights.pth').keys() == MobileOne('s0').state_dict().keys()
    (hub / 'weights.pth').write_bytes(b'<html>not found</html>')
    with pytest.raises(CheckpointError, match=r"torch hub's cache of https://example.invalid.*delete it"):
        load_pretrained(f'{URL}weights.pth')


def test_damage_to_a_mobileone_is_still_seen(tmp_path, hub):
    state_dict = MobileOne('s0').state_dict()
    state_dict['stage0.scale_branch.bn.weight'][0] = 1234.5
    for path, name in ((tmp_path / 'weights.pth', str(tmp_path / 'weights.pth')), (hub / 'w.pth', f'{URL}w.pth')):
        torch.save(dict(state_dict={f'backbone.{key}': value for key, value in state_dict.items()}), path)
        CheckpointLoader.load_checkpoint(name)
        damage(path)
        with pytest.raises(CheckpointError, match='damaged .wrong checksum'):
            CheckpointLoader.load_checkpoint(name)


# --- safety

@pytest.mark.parametrize('name', ['{folder}/harmful.pth', URL + 'harmful.pth', 'open-mmlab://url', 'open-mmlab://file',
                                  'mmcls://url'])
def test_nothing_is_executed_by_any_scheme(name, tmp_path, hub, monkeypatch):
    for folder in (tmp_path, hub):
        torch.save(dict(state_dict={}, extra=Harmful(tmp_path / 'trace')), folder / 'harmful.pth')
    models = dict(url=f'{URL}harmful.pth', file=str(tmp_path / 'harmful.pth'))
    for function in ('get_external_models', 'get_mmcls_models'):
        monkeypatch.setattr(mmengine_checkpoint, function, lambda: models)
    # Upstream's loader of this scheme calls torch.load itself, which refuses in its own words.
    is_upstreams = name == 'open-mmlab://file' and not hasattr(mmengine_checkpoint, '_safe_torch_load')
    error, message = (pickle.UnpicklingError, 'weights_only') if is_upstreams else \
        (CheckpointError, 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1')
    with pytest.raises(error, match=message):
        CheckpointLoader.load_checkpoint(name.format(folder=tmp_path))
    assert not (tmp_path / 'trace').exists()


def test_torchs_own_switch_trusts(tmp_path, hub):
    files = []
    for i, folder in enumerate((tmp_path, hub, tmp_path)):
        torch.save(dict(state_dict={}, extra=Harmful(tmp_path / f'trace{i}')), folder / f'harmful{i}.pth')
        files.append(URL + 'harmful1.pth' if folder == hub else str(folder / f'harmful{i}.pth'))
    code = '''
import sys, mobileone_mm
from mmengine.runner import CheckpointLoader
from mobileone_mm.checkpoint.read import read_checkpoint
loads = (CheckpointLoader.load_checkpoint, CheckpointLoader.load_checkpoint, read_checkpoint)
for load, file in zip(loads, sys.argv[1:]):
    load(file)
'''
    python('-W', 'ignore', '-c', code, *files, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1)
    assert all((tmp_path / f'trace{i}').is_dir() for i in range(3))


def mm_content():
    return dict(state_dict=dict(a=torch.ones(1)), meta=dict(score=np.float64(0.5), epoch=np.int64(3), part=slice(2)),
                message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1]))))


@pytest.mark.parametrize('core', ['core', '_core'])
def test_checkpoints_of_mmengine_with_either_numpy(core, tmp_path):
    """Those of the model zoos were written with numpy 1, whose names changed since."""
    torch.save(mm_content(), tmp_path / 'new.pth')
    with zipfile.ZipFile(tmp_path / 'new.pth') as source, zipfile.ZipFile(tmp_path / 'old.pth', 'w') as target:
        for entry in source.namelist():
            content = source.read(entry)
            if entry.endswith('data.pkl'):
                content = content.replace(b'numpy._core.', b'numpy.core.')
                content = content.replace(b'numpy.core.', f'numpy.{core}.'.encode())
                assert f'numpy.{core}.multiarray'.encode() in content
            target.writestr(entry, content)
    for load in (CheckpointLoader.load_checkpoint, read_checkpoint):
        loaded = load(str(tmp_path / 'old.pth'))
        assert loaded['message_hub']['log_scalars']['loss'].mean() == 1.5
        assert loaded['meta'] == mm_content()['meta']


def test_torchs_list_of_safe_globals_stays_as_the_import_left_it(tmp_path):
    """So that tools which call torch.load themselves read the checkpoints of a training, also after other loads."""
    torch.save(mm_content(), tmp_path / 'checkpoint.pth')
    before = set(torch.serialization.get_safe_globals())
    assert {HistoryBuffer, np.dtype} <= before
    read_checkpoint(tmp_path / 'checkpoint.pth')
    CheckpointLoader.load_checkpoint(str(tmp_path / 'checkpoint.pth'))
    assert set(torch.serialization.get_safe_globals()) == before
    assert torch.load(tmp_path / 'checkpoint.pth', weights_only=True)['meta'] == mm_content()['meta']


def test_safe_loading_without_torchs_list(tmp_path):
    """As with MOBILEONE_MM_COMPAT=0: what our own loading needs is on the list for the time of a load only."""
    torch.save(mm_content(), tmp_path / 'checkpoint.pth')
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals([HistoryBuffer]):
            assert read_checkpoint(tmp_path / 'checkpoint.pth')['meta'] == mm_content()['meta']
            assert torch.serialization.get_safe_globals() == [HistoryBuffer]  # another library put it there
    finally:
        torch.serialization.add_safe_globals(before)


def test_threads_do_not_take_each_others_safe_globals(tmp_path):
    torch.save(mm_content(), tmp_path / 'checkpoint.pth')
    errors = []

    def load():
        try:
            for _ in range(20):
                CheckpointLoader.load_checkpoint(str(tmp_path / 'checkpoint.pth'))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_only_the_file_is_called_damaged(tmp_path, monkeypatch):
    torch.save(dict(a=torch.ones(1)), tmp_path / 'weights.pth')
    for error in (RuntimeError('Attempting to deserialize object on a CUDA device but there is none.'),
                  PermissionError('no access'), ModuleNotFoundError("No module named 'somewhere'")):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(torch, 'load', fail)
        for load in (read_checkpoint, CheckpointLoader.load_checkpoint):
            with pytest.raises(type(error), match=str(error)[:20]) as caught:
                load(str(tmp_path / 'weights.pth'))
            assert not isinstance(caught.value, MobileOneError)
    monkeypatch.undo()
    (tmp_path / 'weights.pth').write_bytes(b'text')
    with pytest.raises(CheckpointError, match='is not a PyTorch checkpoint, or is damaged'):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'weights.pth'))


# --- one function, one line, one switch

STATE = '''
import json, sys, os
import torch, mmengine
from mmengine.runner import CheckpointLoader, checkpoint

def state():
    names = [getattr(checkpoint, name, None) for name in ('load_url', '_safe_torch_load', 'load_from_local')]
    return list(sys.meta_path), dict(CheckpointLoader._schemes), names, torch.load, torch.hub.load_state_dict_from_url

before = state()
globals_before = set(torch.serialization.get_safe_globals())
import mobileone_mm
changed = [a != b for a, b in zip(before, state())]
after = state()
mobileone_mm.compat.apply()
model = mobileone_mm.MobileOne('s0').eval()
print(json.dumps(dict(changed=changed, again=after != state(), output=list(model(torch.ones(1, 3, 32, 32))[0].shape),
                      safe_globals=len(set(torch.serialization.get_safe_globals()) - globals_before))))
'''


@pytest.mark.parametrize('on', [True, False])
def test_switch(on):
    result = run(STATE, **({} if on else dict(MOBILEONE_MM_COMPAT='0')))
    is_onedl = hasattr(mmengine_checkpoint, '_safe_torch_load')
    assert result['changed'] == [on and not has_compiled_ops(), on and not is_onedl, on, False, False]
    assert not result['again'] and result['output'] == [1, 1024, 1, 1] and bool(result['safe_globals']) == on


def test_loaders_that_others_registered_stay():
    code = '''
import json
from mmengine.runner import CheckpointLoader
own = lambda filename, map_location: dict(own=1)
own.__name__ = 'load_from_own'
CheckpointLoader.register_scheme(prefixes='', loader=own, force=True)
import mobileone_mm
print(json.dumps(CheckpointLoader.load_checkpoint('x.pth')))
'''
    assert run(code) == dict(own=1)


def test_one_line_is_logged_once_and_only_if_asked_for():
    code = 'import mobileone_mm; mobileone_mm.compat.apply()'
    result = python('-W', 'ignore', '-c', code)
    assert 'MOBILEONE_MM_COMPAT' not in result.stdout + result.stderr
    logged = 'import logging; logging.basicConfig(level="INFO"); ' + code
    for environment, count in (({}, 1), (dict(MOBILEONE_MM_COMPAT='0'), 0)):
        result = python('-W', 'ignore', '-c', logged, **environment)
        lines = [line for line in result.stderr.splitlines() if ':mobileone_mm:' in line]
        assert len(lines) == count and 'mobileone_mm' not in result.stdout
        assert all(line.startswith('INFO:') and 'mmengine loads checkpoints safely' in line
                   and line.endswith('MOBILEONE_MM_COMPAT=0 in the environment switches this off.') for line in lines)


def test_the_list_names_all_that_is_changed():
    for name in ('mmcv.ops', '_safe_torch_load', 'load_url', 'torchvision', 'MOBILEONE_MM_COMPAT=0', 'INFO'):
        assert name in compat.apply.__doc__


def test_public_names():
    first = {'ARCHS', 'AtomicLocalBackend', 'CalibrateNormsHook', 'CheckpointFitHook', 'MobileOne', 'MobileOneBlock',
             'NearIdentityInit', 'NumClassesFitHook', 'PreserveRandomStateHook', 'SyncAveragedBuffersHook',
             '__version__', 'calibrate_norms', 'expand_state_dict', 'reparameterize_model'}
    assert first <= set(mobileone_mm.__all__)
    assert all(hasattr(mobileone_mm, name) for name in mobileone_mm.__all__)


def test_torchvision_has_no_stand_in_when_switched_off(monkeypatch):
    code = '''
import json, sys
from mobileone_mm.compat.torchvision import importable_torchvision
import importlib.util
installed = importlib.util.find_spec('torchvision') is not None
with importable_torchvision():
    try:
        import torchvision
        imports = True
    except ImportError:
        imports = False
print(json.dumps([installed, imports, any(name.startswith('torchvision') for name in sys.modules)]))
'''
    installed, imports, left = run(code)
    assert imports and left == installed
    installed, imports, _ = run(code, MOBILEONE_MM_COMPAT='0')
    assert imports == installed


# --- the stand-in answers those who ask

def probe(statement, handler='except ImportError:', before=''):
    """Source that asks for an operator: ``found`` is None where the answer is no."""
    return f'{before}\ntry:\n    {statement} as found\n{handler}\n    found = None'


ROI_ALIGN = 'from mmcv.ops import RoIAlign'
HONEST = {
    'ImportError': probe(ROI_ALIGN),
    'its parent': probe(ROI_ALIGN, 'except Exception as error:'),
    'its child': probe(ROI_ALIGN, 'except ModuleNotFoundError:'),
    'bare': probe(ROI_ALIGN, 'except:'),
    'one of two errors': probe(ROI_ALIGN, 'except (KeyError, builtins.ImportError):', 'import builtins'),
    'a name of two': 'try:\n    from mmcv.ops import (\n        nms,\n        RoIAlign)\n'
                     'except ImportError:\n    found = None',
    'of a submodule': probe('from mmcv.ops.roi_align import roi_align'),
    'a submodule that was imported': probe('from mmcv.ops import roi_align', before='import mmcv.ops.roi_align'),
    'a name that was imported': probe('from mmcv.ops import RoIPool', before='from mmcv.ops import RoIPool'),
    'suppressed': 'from contextlib import suppress\nfound = None\nwith suppress(ImportError):\n'
                  f'    {ROI_ALIGN} as found',
    'inside of more': f'found = None\ntry:\n    if True:\n        {ROI_ALIGN} as found\nexcept ImportError:\n    pass',
}
FOUND = {
    'it works': probe('from mmcv.ops import batched_nms, nms'),
    'unguarded': f'{ROI_ALIGN} as found',
    'raises again': f'try:\n    {ROI_ALIGN} as found\nexcept ImportError as error:\n    raise KeyError from error',
    'another error': probe(ROI_ALIGN, 'except KeyError:'),
    'a function, called later': f'try:\n    def get():\n        {ROI_ALIGN}\n        return RoIAlign\n'
                                'except ImportError:\n    pass\nfound = get()',
    'the handler': f'try:\n    import nothing_of_this_name\nexcept ImportError:\n    {ROI_ALIGN} as found',
    'by its parts': 'import mmcv.ops.merge_cells\nfound = mmcv.ops.merge_cells.SumCell',
}


@needs_stand_in
@pytest.mark.parametrize('name', [*HONEST, *FOUND])
def test_probes_get_an_honest_answer(name, tmp_path):
    (tmp_path / 'probe.py').write_text((HONEST | FOUND)[name])
    for _ in range(2):  # the second time, everything has been imported
        namespace = runpy.run_path(str(tmp_path / 'probe.py'))
        assert (namespace['found'] is None) == (name in HONEST)


@needs_stand_in
def test_without_source_names_import():
    namespace = {}
    exec('try:\n    from mmcv.ops import RoIAlign\nexcept ImportError:\n    RoIAlign = None', namespace)
    with pytest.raises(MissingOperatorError, match=r'mmcv\.ops\.RoIAlign is a compiled operator'):
        namespace['RoIAlign']()


@needs_stand_in
def test_the_registry_still_finds_what_works():
    from mmengine.utils import get_object_from_string
    assert get_object_from_string('mmcv.ops.nms') is compat.mmcv_ops.nms
    assert issubclass(get_object_from_string('mmcv.ops.RoIAlign'), torch.nn.Module)


@needs_stand_in
def test_collect_env():
    from mmcv.utils import collect_env
    info = collect_env()
    assert info['MMCV Compiler'] == info['MMCV CUDA Compiler'] == 'n/a'


def test_all_libraries_register_their_modules():
    """mmdet gets the NMS that works, and mmseg the None that it asked for."""
    code = '''
import json, mobileone_mm, mobileone_mm.tasks.pretraining
import importlib
for package in ('mmdet', 'mmseg', 'mmpretrain'):
    importlib.import_module(f'{package}.utils').register_all_modules(init_default_scope=False)
import mmdet.models.dense_heads.base_dense_head as dense_head
import mmseg.models.decode_heads.cc_head as cc_head
sizes = [len(importlib.import_module(f'{package}.registry').MODELS) for package in ('mmdet', 'mmseg', 'mmpretrain')]
works = dense_head.batched_nms is mobileone_mm.compat.mmcv_ops.batched_nms
print(json.dumps([*sizes, works, cc_head.CrissCrossAttention is None]))
'''
    *sizes, works, missing = run(code)
    assert all(size > 80 for size in sizes)
    assert works != has_compiled_ops() and missing != has_compiled_ops()


# --- downloads

@pytest.fixture
def server(tmp_path):
    """A server on this machine of the files in a folder; it counts the requests."""
    folder = tmp_path / 'served'
    folder.mkdir()
    requests = []

    class Handler(BaseHTTPRequestHandler):

        def do_GET(self):
            requests.append(self.path)
            content = (folder / self.path.strip('/')).read_bytes()
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f'http://127.0.0.1:{server.server_port}', requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_nodes_with_one_folder_do_not_disturb_each_other(server, hub, monkeypatch):
    """Both have downloaded before either moves its file into place."""
    folder, url, requests = server
    torch.save(dict(a=torch.ones(1)), folder / 'weights.pth')
    both = threading.Barrier(2, timeout=60)

    def read(*args, **kwargs):
        both.wait()
        content = read_checkpoint(*args, **kwargs)
        both.wait()
        return content

    monkeypatch.setattr(pretrained, 'read_checkpoint', read)
    paths, errors = [], []

    def node():
        try:
            paths.append(pretrained.download(f'{url}/weights.pth'))
        except Exception as error:
            errors.append(error)

    nodes = [threading.Thread(target=node) for _ in range(2)]
    for thread in nodes:
        thread.start()
    for thread in nodes:
        thread.join()
    assert not errors and paths == [str(hub / 'weights.pth')] * 2 and len(requests) == 2
    assert [path.name for path in hub.iterdir()] == ['weights.pth']


@pytest.mark.parametrize('load', [pretrained.download, CheckpointLoader.load_checkpoint], ids=['ours', "mmengine's"])
def test_a_cache_that_cannot_be_written(load, server, tmp_path, monkeypatch):
    """As behind a home that is read-only; a file in the folder's place stops root, too."""
    folder, url, _ = server
    torch.save(dict(a=torch.ones(1)), folder / 'weights.pth')
    (tmp_path / 'home').touch()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    with pytest.raises(DiskError, match=rf"weights\.pth in '{tmp_path}/home/hub/checkpoints': .*TORCH_HOME"):
        load(f'{url}/weights.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'other'))
    load(f'{url}/weights.pth')


def test_safetensors_by_url(server, hub):
    save_file = pytest.importorskip('safetensors.torch').save_file
    folder, url, _ = server
    save_file(dict(a=torch.ones(1)), folder / 'model.safetensors')
    try:
        torch.load(folder / 'model.safetensors')
    except pickle.UnpicklingError:
        pytest.skip('this torch does not read safetensors')
    path = pretrained.download(f'{url}/model.safetensors')
    assert read_checkpoint(path) == dict(a=torch.ones(1))


def test_what_cannot_be_read_is_not_kept(server, hub):
    folder, url, requests = server
    (folder / 'weights.pth').write_bytes(b'<html>log in first</html>')
    with pytest.raises(CheckpointError, match=r'(?s)Could not download .*not a PyTorch checkpoint.*init_cfg=None'):
        pretrained.download(f'{url}/weights.pth')
    assert not list(hub.iterdir())
    torch.save(dict(a=torch.ones(1)), folder / 'weights.pth')
    for _ in range(2):
        pretrained.download(f'{url}/weights.pth')
    assert len(requests) == 2  # the second time from the cache


def test_one_process_of_a_machine_downloads(server, hub):
    """mmengine's get_local_rank() fails wherever a process group was made without a local one, which is everywhere."""
    folder, url, requests = server
    torch.save(dict(a=torch.ones(1)), folder / 'weights.pth')
    code = '''
import json, os, sys
import torch, mobileone_mm
from mobileone_mm.checkpoint.pretrained import download
torch.distributed.init_process_group('gloo', init_method='file://' + sys.argv[1] + os.environ['LOCAL_RANK'], rank=0,
                                     world_size=1)
try:
    print(json.dumps(download(sys.argv[2])))
except mobileone_mm.utils.errors.CheckpointError as error:
    print(json.dumps(str(error)))
'''
    arguments = [hub.parent / 'store', f'{url}/weights.pth']
    assert 'see the first process of this machine' in run(code, *arguments, LOCAL_RANK=1) and not requests
    assert run(code, *arguments, LOCAL_RANK=0) == str(hub / 'weights.pth') and len(requests) == 1


def test_this_mmengine_is_one_that_is_known():
    """What is replaced has the form that was expected."""
    assert mmengine_checkpoint.load_from_http.__globals__['load_url'].__module__ == 'mobileone_mm.compat.loading', \
        mmengine.__version__


def test_a_map_location_with_a_fault_is_not_a_damaged_file(tmp_path):
    torch.save(dict(a=torch.ones(1)), tmp_path / 'weights.pth')

    def location(storage, name):
        raise KeyError('mine')

    for map_location, error in ((location, KeyError), ('nonsense', RuntimeError)):
        with pytest.raises(error) as raised:
            CheckpointLoader.load_checkpoint(str(tmp_path / 'weights.pth'), map_location=map_location)
        assert not isinstance(raised.value, CheckpointError)
