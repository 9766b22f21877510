"""The benchmark: counts, equal functions of all forms, written files; no timing is asserted."""
import csv
import json
from itertools import pairwise

import pytest
import torch
from torch import nn

from mobileone_mm import MobileOne
from mobileone_mm.benchmark import bottlenecks, contenders
from mobileone_mm.benchmark.contenders import Contender, make_forms
from mobileone_mm.benchmark.measure import (
    Entry,
    benchmark,
    correlate,
    count,
    make_entries,
    spearman,
    summarize,
)
from mobileone_mm.benchmark.report import print_report
from mobileone_mm.benchmark.timing import measure
from tests.support import detection, segmentation
from tests.support.archs import PARAMETERS
from tests.support.paths import ROOT
from tests.support.reference import randomize
from tests.support.runs import python

DETECTOR, SEGMENTOR = (str(ROOT / config) for config in (detection.SHAPES, segmentation.SHAPES))
TOOL = 'tools/benchmark.py'
QUICK = ['--rounds', 2, '--warmup', 0, '--threads', 1]
TINY = dict(num_blocks=(1, 2, 1, 1), width_multipliers=(0.25, 0.25, 0.25, 0.25), num_conv_branches=2,
            num_se_blocks=(0, 0, 1, 0))


def missing(tmp_path, *packages):
    """A PYTHONPATH entry that hides packages."""
    for package in packages:
        (tmp_path / f'{package}.py').write_text(f'raise ImportError("no {package}")')
    return f'{tmp_path}:.'


@pytest.mark.parametrize('arch', PARAMETERS)
def test_counts_of_the_forms(arch):
    x = torch.zeros(1, 3, 64, 64)
    counts = {form: count(module, x) for form, module in contenders.from_arch(arch).forms.items()}
    assert list(counts) == ['train', 'eval', 'deploy']
    assert tuple(counts[form][0] for form in counts) == (PARAMETERS[arch][0], *PARAMETERS[arch])
    assert counts['train'][1] > counts['eval'][1] == counts['deploy'][1]


def test_all_forms_are_one_function():
    model = randomize(MobileOne(TINY)).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    forms = make_forms(model)
    ran_norms = []
    for form, module in forms.items():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(lambda *_, form=form: ran_norms.append(form))
    with torch.inference_mode():
        outs = {form: module(x)[0] for form, module in forms.items()}
    assert set(ran_norms) == {'train'}
    for form in ('train', 'eval'):
        torch.testing.assert_close(outs[form], outs['deploy'], rtol=0, atol=1e-10 * outs['deploy'].abs().max().item())
    assert not any(norm.training for norm in forms['train'].modules() if isinstance(norm, nn.BatchNorm2d))


@pytest.mark.parametrize('runtime', ['onnxruntime', 'openvino'])
def test_runtimes_give_torchs_outputs(runtime):
    pytest.importorskip(runtime)
    contender = Contender('tiny', (3, 32, 32), make_forms(randomize(MobileOne(TINY, out_indices=(1, 3)))))
    entries = make_entries(contender, ['torch', runtime], batch=2, threads=1)
    assert [(entry.form, entry.runtime, entry.layout) for entry in entries] == [
        *((form, 'torch', layout) for form in ('train', 'eval', 'deploy') for layout in ('plain', 'channels_last')),
        ('deploy', runtime, 'own')]
    assert entries[0].shape == (2, 3, 32, 32)
    expected = entries[4].run()
    for entry in (entries[5], entries[6]):
        for out, theirs in zip(entry.run(), expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(out), theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


def test_a_layout_is_that_of_all_maps():
    model = MobileOne(TINY, out_indices=(1, 3))
    seen = []
    model.stage2.register_forward_pre_hook(
        lambda module, x: seen.append(x[0].is_contiguous(memory_format=torch.channels_last)))
    entries = make_entries(Contender('tiny', (3, 64, 64), {'deploy': model.eval()}), ['torch'], 1, 1,
                           layouts=('plain', 'channels_last', 'default'))
    seen.clear()
    for entry in (*entries, entries[0]):  # the layouts do not disturb each other
        out = entry.run()[0]
        assert out.is_contiguous(memory_format=torch.channels_last) == (entry.layout == 'channels_last')
    assert seen == [False, True, True, False]


@pytest.mark.parametrize('package, build', [('timm', contenders._from_timm),
                                            ('mmpretrain', contenders._from_mmpretrain)])
def test_peers_forms_are_one_function(package, build):
    pytest.importorskip('mobileone_mm.tasks.pretraining' if package == 'mmpretrain' else package, exc_type=ImportError)
    contender = build('s0', (64, 64))
    assert tuple(count(module, torch.zeros(1, 3, 64, 64))[0] for module in contender.forms.values()) == PARAMETERS['s0']
    outs = [entry.run() for entry in make_entries(contender, ['torch'], batch=1, threads=1)]
    first, *others = (out if isinstance(out, torch.Tensor) else out[-1] for out in outs)
    for other in others:
        torch.testing.assert_close(first, other, rtol=0, atol=1e-4 * other.abs().max().item())


def test_sizes_follow_the_kind():
    detector, segmentor, backbone = (build() for build in contenders.plan([DETECTOR, SEGMENTOR], ['s1'], peers=False))
    assert [each.shape for each in (detector, segmentor, backbone)] == [(3, 320, 320), (3, 512, 512), (3, 320, 320)]
    assert not any(module.training for module in segmentor.forms['train'].modules() if isinstance(module, nn.Dropout2d))


def test_interleaving():
    """Every entry is timed once per measured round, in changing order."""
    calls = []
    entries = [Entry(name, 'deploy', 'torch', 'plain', (1, 3, 8, 8), 1, 1, lambda name=name: calls.append(name))
               for name in 'abc']
    measure(entries, rounds=6, warmup=2)
    assert all(len(entry.times_ms) == 6 for entry in entries)
    turns = [calls[0], *(after for before, after in pairwise(calls) if before != after)]
    assert set(turns) == set('abc') and turns[:3] * 8 != turns


def test_statistics():
    entries = [Entry('base', 'eval', 'torch', 'plain', (1, 3, 8, 8), 9, 9, None, [9., 9., 9.]),
               Entry('base', 'deploy', 'torch', 'plain', (1, 3, 8, 8), 9, 9, None, [2., 1., 4.]),
               Entry('other', 'deploy', 'torch', 'plain', (1, 3, 8, 8), 9, 9, None, [4., 4., 4.])]
    *_, base, other = summarize(entries, 'base', 'plain')
    assert (base['median_ms'], base['min_ms'], base['ratio'], other['ratio']) == (2, 1, 1, 2)
    assert base['p95_ms'] == pytest.approx(3.8)  # between 2 and 4, at 0.95 of the way from the first to the last
    assert (base['q1_ms'], base['q3_ms']) == (1.5, 3)
    assert (other['input'], other['layout']) == ('1x3x8x8', 'plain')


def test_spearman_by_hand():
    """d = (0, 1, 1, 0): rho = 1 - 6 * 2 / (4 * 15); 4 of 24 orders agree, 4 disagree as much."""
    rho, p = spearman([1, 2, 3, 4], [10, 30, 20, 40])
    assert (rho, p) == (pytest.approx(0.8), pytest.approx(8 / 24))
    row = dict(form='deploy', runtime='torch', layout='channels_last', parameters=5)
    rows = [row | dict(macs=macs, median_ms=ms) for macs, ms in ((1, 10), (2, 30), (3, 20), (4, 40))]
    of_macs, of_parameters = correlate([
        *rows, row | dict(form='train', macs=9, parameters=9, median_ms=0),
        row | dict(layout='plain', macs=9, parameters=9, median_ms=0)])
    assert (of_macs['rho'], of_macs['p'], of_macs['models']) == (rho, p, 4)
    assert (of_macs['paper_phone'], of_macs['paper_cpu']) == (0.47, 0.06)
    assert (of_parameters['paper_phone'], of_parameters['paper_cpu']) == (0.30, 0.07)
    assert of_parameters['rho'] is None  # three networks of one size rank nothing


def check_files(folder, name, screen):
    """CSV and JSON hold the rows of the table on screen, and the plot is an image; returns the JSON."""
    report = json.loads((folder / f'{name}.json').read_text())
    with open(folder / f'{name}.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report['rows'])
    table = [[cell.strip() for cell in line.split('│')[1:-1]] for line in screen.splitlines() if line.startswith('│')]
    for row, expected in zip(rows, report['rows'], strict=True):
        assert len(expected.pop('times_ms')) == report['settings']['rounds'] == 2
        assert row == {key: str(value) for key, value in expected.items()}
        numbers = [f'{expected["parameters"] / 1e6:.3f}', f'{expected["macs"] / 1e6:.1f}',
                   f'{expected["median_ms"]:.2f}',
                   f'{expected["q1_ms"]:.2f} to {expected["q3_ms"]:.2f}', f'{expected["ratio"]:.2f}']
        assert any(expected['runtime'] in cells and all(number in cells for number in numbers) for cells in table)
    assert (folder / f'{name}.png').read_bytes().startswith(b'\x89PNG')
    assert {path.name for path in folder.iterdir()} == {f'{name}.{suffix}' for suffix in ('csv', 'json', 'png')}
    return report


@pytest.mark.slow
def test_backbones_from_the_command_line(tmp_path):
    pytest.importorskip('onnxruntime')
    hidden = missing(tmp_path, 'timm', 'mmpretrain')
    screen = python(TOOL, '--arch', 's1', 's2', 's3', '--runtime', 'torch', 'onnxruntime', '--shape', 32, 32, '--peers',
                    '--baseline', 's2', '--batch', 2, *QUICK, '--out-dir', tmp_path / 'out', PYTHONPATH=hidden).stdout
    report = check_files(tmp_path / 'out', 'benchmark', screen)
    assert [(row['model'], row['form'], row['runtime']) for row in report['rows']] == [
        (arch, *kind) for arch in ('s1', 's2', 's3')
        for kind in (*((form, 'torch') for form in ('train', 'eval', 'deploy') for _ in range(2)),
                     ('deploy', 'onnxruntime'))]
    assert report['rows'][0]['input'] == '2x3x32x32' and report['settings']['threads'] == 1
    assert [row['ratio'] for row in report['rows'][12:14]] == [1, 1]
    text = ' '.join(screen.split())  # lines break where the name of the processor leaves no room
    assert f'torch {torch.__version__}' in text and 'batch 2' in text
    assert 'Spearman of MACs with latency on onnxruntime' in text and 'paper: 0.47 on a phone' in text
    assert text.count('Left out: ') == 2 and 'pip install timm' in text and 'pip install onedl-mmpretrain' in text


@pytest.mark.slow
def test_whole_networks_with_their_peers(tmp_path):
    screen = python(TOOL, DETECTOR, SEGMENTOR, '--peers', '--shape', 64, 64, *QUICK, '--out-dir', tmp_path).stdout
    rows = check_files(tmp_path, 'benchmark', screen)['rows']
    assert [row['form'] for row in rows[::2]] == ['train', 'eval', 'deploy', 'train', 'eval', 'deploy',
                                                  *['eval', 'deploy'] * 2]
    assert [row['layout'] for row in rows] == ['plain', 'channels_last'] * 10
    assert list(dict.fromkeys(row['model'] for row in rows)) == [
        'ssdlite_mobileone_s2_shapes', 'deeplabv3_mobileone_s2_shapes', 'mmdet SSDLite-MobileNetV2',
        'mmseg DeepLabV3-MobileNetV2']


def test_bottlenecks_from_the_command_line(tmp_path):
    screen = python(TOOL, '--bottlenecks', '--shape', 8, 8, '--width', 16, *QUICK, '--out-dir', tmp_path).stdout
    report = check_files(tmp_path, 'bottlenecks', screen)
    assert [row['model'] for row in report['rows']] == list(bottlenecks.variants(16))
    assert report['settings']['baseline'] == 'ReLU' and 'correlations' not in report
    assert '1.66' in screen  # SiLU on the paper's phone, 2.54 / 1.53


def test_bottleneck_networks():
    x = torch.randn(1, 16, 8, 8)
    nets = {name: build().eval() for name, build in bottlenecks.variants(16).items()}
    assert set(nets) >= {'ReLU', 'GELU', 'SiLU', 'SE-ReLU', 'HSwish', 'PReLU', 'ReLU, skip over 1', 'DynamicReLU-B'}
    for net in nets.values():
        assert sum(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in net.modules()) == 30
        assert net(x).shape == x.shape and net(x).isfinite().all()
    gates = {name: sum(type(module).__name__ == 'SqueezeExcite' for module in net.modules())
             for name, net in nets.items()}
    assert {name: number for name, number in gates.items() if number} == {'SE-ReLU': 30, 'SE-ReLU, every 2nd': 15}
    for every in (1, 2):
        out, net = x, nets[f'ReLU, skip over {every}']
        for i in range(0, 30, every):
            out = out + nn.Sequential(*net.layers[i:i + every])(out)
        torch.testing.assert_close(net(x), out)


def test_too_few_networks_are_said_to_be_too_few(capsys):
    entry = Entry('s0', 'deploy', 'torch', 'default', (1, 3, 8, 8), 1, 1, None, [1., 2.])
    settings = dict(cpu='cpu', device='cpu', threads=1, batch=1, rounds=2, warmup=0, baseline='s0', layout='default')
    report = dict(settings=settings, versions={}, notes=[], rows=summarize([entry], 's0', 'default'))
    print_report(report | dict(correlations=correlate(report['rows'])))
    assert 'needs at least three networks that differ in MACs' in capsys.readouterr().out


@pytest.mark.parametrize('arguments, message', [
    (['--bottlenecks', '--arch', 's0'], 'Leave CONFIG, --arch and --peers out'),
    (['--arch', 's0', '--runtime', 'torch', 'openvino'], 'pip install openvino'),
], ids=lambda value: value if isinstance(value, str) else None)
def test_errors_are_one_line_and_leave_no_file(tmp_path, arguments, message):
    result = python(TOOL, *arguments, '--out-dir', tmp_path / 'out', check=False,
                    PYTHONPATH=missing(tmp_path, 'openvino'))
    assert result.returncode == 1 and message in result.stderr and 'Traceback' not in result.stderr
    assert not list(tmp_path.glob('out/*'))


@pytest.mark.parametrize('plan, options, message', [
    (lambda: contenders.plan(['configs/nothing.py'], [], False), {}, 'does not exist'),
    (lambda: contenders.plan([str(ROOT / 'configs/_base_/default_runtime.py')], [], False), {}, 'has no model'),
    (lambda: contenders.plan([DETECTOR, DETECTOR], [], False), {}, 'Two configs go by the name'),
    (lambda: contenders.plan([], ['s0'], False, (0, 8)), {}, r'at least 1, got \(0, 8\)'),
    (lambda: bottlenecks.plan(0, (8, 8)), {}, 'at least 1, got 0'),
    (lambda: contenders.plan([], ['s1'], False), dict(rounds=0), '--rounds must be at least 1, got 0'),
    (lambda: contenders.plan([], ['s1'], False), dict(threads=0), '--threads must be at least 1, got 0'),
    (lambda: contenders.plan([], ['s1'], False), dict(device='cuda', runtimes=['onnxruntime']), '--device cuda'),
    (lambda: contenders.plan([], ['s1'], False, (32, 32)), dict(baseline='s9'),
     "--baseline is one of 's1' here, got 's9'"),
    (lambda: [lambda: Contender('pair', (3, 8, 8), {'deploy': nn.Bilinear(8, 8, 8)})], {}, 'pair does not run on'),
])
def test_what_is_refused(plan, options, message):
    with pytest.raises((ValueError, OSError), match=message):
        benchmark(plan(), **options)
