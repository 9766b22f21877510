"""Weights in: layouts, a strict fit, safe reading, clear errors."""
import os
import pickle
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, load_checkpoint
from PIL import Image

from mobileone_mm import ARCHS, MobileOne, calibrate_norms
from mobileone_mm.checkpoint import read as checkpoint_module
from mobileone_mm.checkpoint.pretrained import load_pretrained
from mobileone_mm.checkpoint.read import read_checkpoint
from mobileone_mm.utils.errors import CheckpointError
from tests.support.layouts import TO_APPLE, TO_MMPRETRAIN, TO_TIMM, rename
from tests.support.paths import real_data
from tests.support.reference import randomize


@pytest.fixture(scope='module')
def s4():
    torch.manual_seed(0)
    return randomize(MobileOne('s4'))


LAYOUTS = {
    'ours': lambda s: s,
    'Apple': lambda s: rename(s, TO_APPLE),
    'mmpretrain': lambda s: rename(s, TO_MMPRETRAIN, 'backbone.', 'head.fc.'),
    'timm': lambda s: rename(s, TO_TIMM, '', 'head.fc.'),
    'a whole detector': lambda s: {f'backbone.{k}': v for k, v in s.items()} | {'neck.weight': torch.zeros(1)},
    'wrapped twice': lambda s: rename(s, TO_APPLE, 'module.model.', 'module.model.linear.'),
    'without step counters': lambda s: {k: v for k, v in s.items() if not k.endswith('num_batches_tracked')},
}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('how', ['init_cfg', 'load_state_dict', 'load_checkpoint', 'deploy'])
def test_layouts(layout, how, s4, tmp_path):
    state_dict = LAYOUTS[layout](s4.state_dict())
    file = str(tmp_path / 'weights.pth')
    torch.save(dict(state_dict=state_dict, meta={}), file)
    model = MobileOne('s4', deploy=how == 'deploy',
                      init_cfg=dict(type='Pretrained', checkpoint=file) if how == 'init_cfg' else None)
    if how == 'init_cfg':
        model.init_weights()
    elif how == 'load_checkpoint':
        load_checkpoint(model, file, map_location='cpu')
    else:
        model.load_state_dict(state_dict)
    if how != 'deploy':
        for key, value in s4.state_dict().items():
            assert layout == 'without step counters' or torch.equal(model.state_dict()[key], value), key
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), s4.eval()(x), rtol=1e-3, atol=1e-3)


def test_deploy_layouts(s4):
    deployed = MobileOne('s4', deploy=True)
    deployed.load_state_dict(s4.state_dict())
    for table, prefix in ((TO_MMPRETRAIN, 'backbone.'), (TO_TIMM, ''), (TO_APPLE, '')):
        again = MobileOne('s4', deploy=True)
        again.load_state_dict(rename(deployed.state_dict(), table, prefix, 'head.fc.'))
        assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), deployed.state_dict().values(),
                                                     strict=True))


@pytest.mark.parametrize('got', ARCHS)
@pytest.mark.parametrize('fused', [False, True])
def test_another_arch_is_named(got, fused):
    expected = 's1' if got == 's0' else 's0'
    message = f"These are MobileOne '{got}' weights, but the config says arch='{expected}'"
    with pytest.raises(CheckpointError, match=message):
        MobileOne(expected, deploy=fused).load_state_dict(MobileOne(got, deploy=fused).state_dict())


def without(key):
    return lambda s: s.pop(key)


MISFITS = {
    'another arch': (lambda s: (s.clear(), s.update(MobileOne('s1').state_dict())),
                     "These are MobileOne 's1' weights, but the config says arch='s0'. "
                     "Set arch='s1', or load weights"),
    'missing': (without('stage2.3.conv_branches.1.bn.weight'),
                r'does not fit MobileOne\(arch=\'s0\'.*missing: stage2.3'),
    'unexpected': (lambda s: s.update({'stage1.9.conv_branches.0.conv.weight': torch.zeros(1)}),
                   'unexpected: stage1.9'),
    'shape': (lambda s: s.update({'stage0.skip_branch.weight': torch.zeros(3)}) or
              s.update({'stage0.conv_branches.0.bn.weight': torch.zeros(3)}),
              r'of another shape: .*\(3,\) instead of \(48,\)'),
    'another network': (lambda s: (s.clear(), s.update({'layer1.0.conv1.weight': torch.zeros(1)})),
                        'no MobileOne checkpoint: got keys such as layer1.0.conv1.weight'),
    'empty': (lambda s: s.clear(), 'no MobileOne checkpoint'),
}


@pytest.mark.parametrize('name', MISFITS)
@pytest.mark.parametrize('deploy', [False, True])
def test_misfits(name, deploy, tmp_path):
    change, message = MISFITS[name]
    state_dict = dict(MobileOne('s0').state_dict())
    change(state_dict)
    with pytest.raises(ValueError, match=message):
        MobileOne('s0', deploy=deploy).load_state_dict(state_dict)
    torch.save(state_dict, tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match=message):  # mmengine's loader would only log
        load_checkpoint(MobileOne('s0', deploy=deploy), str(tmp_path / 'weights.pth'))


def test_download_failure_names_both_remedies(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fail)
    model = MobileOne('s0', init_cfg=dict(type='Pretrained', checkpoint='https://example.invalid/weights.pth.tar'))
    with pytest.raises(CheckpointError, match=r'(?s)example.invalid.*no network.*init_cfg.checkpoint=.*init_cfg=None'):
        model.init_weights()


def test_missing_local_file_names_both_remedies():
    model = MobileOne('s0', init_cfg=dict(type='Pretrained', checkpoint='/nowhere/weights.pth'))
    with pytest.raises(CheckpointError, match=r'(?s)/nowhere/weights.pth.*init_cfg.checkpoint=.*init_cfg=None'):
        model.init_weights()


@contextmanager
def serve(folder, cut=None):
    """A server on this machine; ``cut`` bytes of each file arrive, of the length that was promised."""

    class Handler(BaseHTTPRequestHandler):

        def do_GET(self):
            content = (folder / self.path.strip('/')).read_bytes()
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content[:cut])

        def log_message(self, *args):
            pass

    server = HTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    torch.save(MobileOne('s0').state_dict(), tmp_path / 'weights.pth')
    with serve(tmp_path, cut=2000) as url, \
            pytest.raises(CheckpointError, match=r'(?s)Could not download.*init_cfg=None'):
        load_pretrained(f'{url}/weights.pth')
    assert not list((tmp_path / 'hub' / 'checkpoints').iterdir())
    with serve(tmp_path) as url:
        assert load_pretrained(f'{url}/weights.pth').keys() == MobileOne('s0').state_dict().keys()
        (tmp_path / 'weights.pth').unlink()
        load_pretrained(f'{url}/weights.pth')  # from the cached copy
    with pytest.raises(CheckpointError, match="no keys below prefix='teacher.'"):
        load_pretrained(str(next((tmp_path / 'hub' / 'checkpoints').glob('*weights.pth'))), prefix='teacher')


class Harmful:
    """Unpickled without care, it leaves a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace, )


@pytest.mark.parametrize('legacy', [False, True])
def test_nothing_is_executed(tmp_path, legacy, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    file, trace = str(tmp_path / 'harmful.pth'), str(tmp_path / 'trace')
    torch.save(dict(state_dict=dict(a=torch.zeros(1)), extra=Harmful(trace)), file,
               _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r'(?s)could run code.*TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1'):
        read_checkpoint(file)
    with pytest.raises(ValueError, match='could run code'):
        load_checkpoint(MobileOne('s0'), file)
    with serve(tmp_path) as url, pytest.raises(ValueError, match='could run code'):
        CheckpointLoader.load_checkpoint(f'{url}/harmful.pth')
    assert not os.path.exists(trace)


def test_what_mmengine_saves_is_safe(tmp_path):
    file = str(tmp_path / 'checkpoint.pth')
    content = dict(meta=dict(seed=3, scores=np.float64(0.5), epoch=np.int64(4)),
                   message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1]))))
    torch.save(content, file)
    for _ in range(2):
        loaded = read_checkpoint(file)
        CheckpointLoader.load_checkpoint(file)  # mmengine's loader used to undo the permission
    assert loaded['message_hub']['log_scalars']['loss'].mean() == 1.5
    assert loaded['meta'] == content['meta']


def test_only_a_history_buffers_methods_are_fetched():
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global: getattr of .*'__globals__'"):
        checkpoint_module._history_buffer_method(HistoryBuffer, '__globals__')


@pytest.mark.parametrize('damage', ['truncated', 'text', 'empty', 'a list'])
def test_damaged_files(tmp_path, damage):
    file = tmp_path / 'damaged.pth'
    torch.save(MobileOne('s0').state_dict(), file)
    content = file.read_bytes()
    if damage == 'a list':
        torch.save([1, 2], file)
    else:
        file.write_bytes(dict(truncated=content[:len(content) // 2], text=b'<html>not found</html>', empty=b'')[damage])
    with pytest.raises(ValueError, match=r'damaged\.pth.*(is not a PyTorch checkpoint, or is damaged|holds a list)'):
        read_checkpoint(str(file))


def accuracy(features):
    """Top-1 and top-5 hits on 25 ImageNet images (resize 256, centre crop 224), with Apple's classifier."""
    weights = read_checkpoint(str(real_data('mobileone_s0_fused') / 'mobileone_s0_fused.pth'))
    folder = real_data('imagenet_val25')
    top1 = top5 = 0
    for line in (folder / 'meta' / 'val.txt').read_text().split('\n'):
        if not line:
            continue
        name, label = re.fullmatch(r'(\S+)\s+(\d+)', line).groups()
        path = folder / name if (folder / name).exists() else folder / 'val' / name
        image = Image.open(path).convert('RGB')
        scale = 256 / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.BILINEAR)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        image = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
        image = (image - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            logits = features(x)[0].mean((2, 3)) @ weights['linear.weight'].T + weights['linear.bias']
        best = logits[0].topk(5).indices.tolist()
        top1 += best[0] == int(label)
        top5 += int(label) in best
    return top1, top5


@pytest.mark.parametrize('form', ['deploy', 'expanded',
                                  pytest.param('expanded and calibrated', marks=pytest.mark.slow)])
def test_apples_fused_s0(form):
    """The real thing: 20 of 25 top-1 and 24 top-5 is what these weights give."""
    init_cfg = dict(type='Pretrained', checkpoint=str(real_data('mobileone_s0_fused') / 'mobileone_s0_fused.pth'))
    if form != 'deploy':
        init_cfg['expand'] = True
    model = MobileOne('s0', deploy=form == 'deploy', init_cfg=init_cfg)
    model.init_weights()
    if form.endswith('calibrated'):
        calibrate_norms(model, [torch.randn(2, 3, 224, 224)])
    assert accuracy(model.eval()) == (20, 24)


def fuzz(generator, state_dict, file):
    """Save a state dict, changed or damaged in one of several ways; what a load must give, or None for an error."""
    kind = generator.integers(8)
    state_dict = dict(state_dict)
    keys = sorted(state_dict)
    key = keys[generator.integers(len(keys))]
    value, expected = state_dict[key], None
    if kind == 0:  # a layout that is known
        expected = state_dict
        state_dict = LAYOUTS[sorted(LAYOUTS.keys() - {'without step counters'})[generator.integers(6)]](state_dict)
    elif kind == 1:
        del state_dict[key]
        expected = state_dict | {key: torch.tensor(0)} if key.endswith('num_batches_tracked') else None
    elif kind == 2:
        state_dict[key + 'x' if generator.integers(2) else key.replace('stage', 'stag')] = state_dict.pop(key)
    elif kind == 3:
        state_dict[key] = value[None] if generator.integers(2) else value.repeat(2, *[1] * (value.dim() - 1))
    elif kind == 4:
        if value.is_floating_point():
            state_dict[key] = value.clone()
            flat = state_dict[key].view(-1)
            flat[generator.integers(value.numel())] = [float('nan'), float('inf')][generator.integers(2)]
        else:
            expected = state_dict
    elif kind == 5:
        state_dict[key] = [None, 'weights', [1.0], dict(a=value)][generator.integers(4)]
    torch.save(state_dict if generator.integers(2) else dict(state_dict=state_dict, meta={}), file)
    if kind >= 6:
        content = bytearray(file.read_bytes())
        if kind == 6:
            content = content[:generator.integers(len(content))]
        else:
            for _ in range(generator.integers(1, 4)):
                content[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
            expected = state_dict  # a flip in the archive's padding or names may leave the weights as they were
        file.write_bytes(content)
    return expected


@pytest.mark.slow
def test_fuzz(tmp_path):
    """500 files: a clear error, or exactly the right weights; never some of them, never another exception."""
    torch.manual_seed(0)
    source = randomize(MobileOne(dict(num_blocks=(1, 1, 1, 1), width_multipliers=(.25, .25, .125, .0625),
                                      num_conv_branches=1, num_se_blocks=(0, 0, 0, 1))))
    generator, file, errors = np.random.default_rng(0), tmp_path / 'weights.pth', 0
    for case in range(500):
        expected = fuzz(generator, source.state_dict(), file)
        model = MobileOne(source.arch, init_cfg=dict(type='Pretrained', checkpoint=str(file)))
        before = {key: value.clone() for key, value in model.state_dict().items()}
        try:
            model.init_weights()
        except CheckpointError as error:
            errors += 1
            assert len(str(error)) > 40, case
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), case
        else:
            assert expected is not None, case
            assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items()), case
    assert 250 < errors < 480


STRANGE = {
    'no string': (lambda s: s.update({3: torch.zeros(1)}), 'keys that are no strings, such as 3'),
    'no tensor': (lambda s: s.update({'stage1.0.scale_branch.bn.weight': 3}), 'is a int, expected a plain tensor'),
    'sparse': (lambda s: s.update({'stage1.0.scale_branch.bn.weight': torch.ones(48).to_sparse()}), 'sparse'),
    'complex': (lambda s: s.update({'stage1.0.scale_branch.bn.weight': torch.ones(48) + 1j}), 'complex64'),
    'integers': (lambda s: s.update({'stage1.0.scale_branch.bn.weight': torch.ones(48, dtype=torch.int64)}),
                 'wrong kind'),
    'no values': (lambda s: s.update({'stage1.0.scale_branch.bn.weight': torch.ones(48, device='meta')}),
                  'without values'),
    'two of them': (lambda s: s.update({f'teacher.{key}': value for key, value in s.items()}), 'several MobileOne'),
}


@pytest.mark.parametrize('name', STRANGE)
@pytest.mark.parametrize('deploy', [False, True])
def test_strange_contents(name, deploy):
    change, message = STRANGE[name]
    state_dict = dict(MobileOne('s0').state_dict())
    change(state_dict)
    with pytest.raises(CheckpointError, match=message):
        MobileOne('s0', deploy=deploy).load_state_dict(state_dict)


def test_other_schemes_are_safe_too(tmp_path, monkeypatch):
    trace = str(tmp_path / 'trace')
    torch.save(dict(state_dict=dict(a=torch.zeros(1)), extra=Harmful(trace)), tmp_path / 'harmful.pth')
    monkeypatch.setattr('mmengine.runner.checkpoint.get_external_models',
                        lambda: dict(evil=str(tmp_path / 'harmful.pth')))
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        CheckpointLoader.load_checkpoint('open-mmlab://evil')
    assert not os.path.exists(trace)


def test_averaged_weights_are_preferred(tmp_path):
    raw, averaged = (randomize(MobileOne('s1'), seed).state_dict() for seed in (0, 1))
    for content in (dict(state_dict=raw, state_dict_ema=averaged),  # timm
                    dict(state_dict=averaged,  # mm
                         ema_state_dict={f'module.{key}': value for key, value in raw.items()}),
                    dict(ema_state_dict={f'module.{key}': value for key, value in averaged.items()} | {
                        'steps': torch.tensor(3)})):
        torch.save(content, tmp_path / 'weights.pth')
        model = MobileOne('s1', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth')))
        model.init_weights()
        assert torch.equal(model.stage0.scale_branch.bn.weight, averaged['stage0.scale_branch.bn.weight'])
