"""The model card: README and metafiles match the configs; results are kept; no file is half written."""
import hashlib
import re
import shutil

import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.visualization import LocalVisBackend

from mobileone_mm.benchmark.model_card import first_differences, logged_values, make_card, write_card
from mobileone_mm.benchmark.model_tables import KINDS, table
from tests.support.paths import ROOT
from tests.support.runs import python

DETECTOR, SEGMENTOR = 'ssdlite_mobileone_s0', 'deeplabv3_mobileone_s0_voc12aug'
WRITTEN = ['configs/detection/metafile.yml', 'configs/segmentation/metafile.yml', 'configs/pretraining/metafile.yml',
           'model-index.yml', 'README.md', *(f'configs/{kind.folder}/README.md' for kind in KINDS)]
TABLES = WRITTEN[5]


@pytest.fixture
def project(tmp_path):
    """A copy of what the tool reads and writes."""
    root = tmp_path / 'project'
    shutil.copytree(ROOT / 'configs', root / 'configs')
    (root / 'tools').mkdir()
    for name in ('README.md', 'model-index.yml', 'tools/model_card.py'):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture
def no_counting(monkeypatch):
    """Bad arguments are refused before the minutes that counting takes."""
    monkeypatch.delattr('mobileone_mm.benchmark.model_card._counts')


def written(root):
    return {name: (root / name).read_bytes() for name in WRITTEN}


def entry(root, name=DETECTOR, folder='detection'):
    models = yaml.safe_load((root / 'configs' / folder / 'metafile.yml').read_text())['Models']
    return next(model for model in models if model['Name'] == name)


def row(root, name=DETECTOR):
    """Column -> cell of a model in the table beside its config."""
    tables = [(root / 'configs' / kind.folder / 'README.md').read_text() for kind in KINDS]
    text = next(text for text in tables if f'[{name}]' in text)
    line = re.search(rf'^\| \[{name}\]\(.*$', text, flags=re.M)
    head = re.findall(r'^\| config \|.*$', text[:line.start()], flags=re.M)[-1]
    return dict(zip(*(cells.strip('| ').split(' | ') for cells in (head, line[0])), strict=True))


def log(folder, *rows):
    """What mmengine's LoggerHook leaves in a work dir."""
    backend = LocalVisBackend(str(folder / '20260101_000000' / 'vis_data'))
    for step, scalars in enumerate(rows, 1):
        backend.add_scalars(scalars, step, file_path='20260101_000000.json')
    return folder


def checkpoint(path):
    register_all_modules()
    model = MODELS.build(Config.fromfile(ROOT / 'configs' / 'detection' / f'{DETECTOR}.py').model)
    torch.save(dict(meta={}, state_dict=model.state_dict()), path)
    return path


@pytest.mark.parametrize('configs', [pytest.param([DETECTOR, SEGMENTOR], id='two'),
                                     pytest.param([], id='all', marks=pytest.mark.slow)])
def test_what_the_project_says_is_what_the_configs_are(configs):
    assert first_differences(make_card(ROOT, configs)) == []


def test_metafiles_name_what_there_is():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    assert index == WRITTEN[:3]
    for kind, path in zip(KINDS, index, strict=True):
        metafile = yaml.safe_load((ROOT / path).read_text())
        for collection in metafile['Collections']:
            assert (ROOT / collection['README']).is_file() and (ROOT / collection['Code']).is_file()
        names = {each['Name'].partition('-')[0].lower(): each['Name'] for each in metafile['Collections']}
        leaves = {f'configs/{kind.folder}/{file.name}' for file in (ROOT / path).parent.glob('*.py')
                  if 'shapes' not in file.name}
        assert {model['Config'] for model in metafile['Models']} == leaves
        for model in metafile['Models']:
            assert model['Config'].endswith(f'/{model["Name"]}.py')
            assert model['In Collection'] == names[model['Name'].partition('_')[0]]
            assert model['Metadata']['Parameters'] < model['Metadata']['Parameters (train form)']


@pytest.mark.slow
def test_what_is_given_is_written_and_kept(project, tmp_path, monkeypatch):
    work = log(tmp_path / 'work', {'loss': 2.}, {'coco/bbox_mAP': 0.251, 'coco/bbox_mAP_50': 0.9},
               {'coco/bbox_mAP': 0.247})
    weights = checkpoint(tmp_path / 'epoch_9.pth')
    before = written(project)
    python('tools/model_card.py', DETECTOR, '--rounds', 1, '--log', f'{DETECTOR}={work}', '--checkpoint',
           f'configs/detection/{DETECTOR}.py={weights}', cwd=project, OMP_NUM_THREADS=1)
    sha = hashlib.sha256(weights.read_bytes()).hexdigest()
    model = entry(project)
    assert model['Results'] == [dict(Task='Object Detection', Dataset='COCO', Metrics={'box AP': 25.1})]
    assert (model['Weights'], model['SHA256']) == ('epoch_9.pth', sha)
    latency, = model['Metadata']['inference time (ms/im)']
    assert latency['value'] > 0 and latency['resolution'] == '320x320' and '1 interleaved rounds' in latency['hardware']
    cells = row(project)
    assert cells == row(ROOT) | {'latency (ms)': f'{latency["value"]:.1f}', 'mAP, ours': '25.1', 'sha256': sha[:8]}
    assert row(project, 'ssdlite_mobileone_s1')['mAP, ours'] == '-'
    assert latency['hardware'] in (project / TABLES).read_text()
    for name in (WRITTEN[1], 'model-index.yml', 'README.md'):
        assert (project / name).read_bytes() == before[name]
    outside = r'(?s)<!-- model-card -->.*<!-- /model-card -->'
    assert re.sub(outside, '', (project / TABLES).read_text()) == re.sub(outside, '', before[TABLES].decode())

    # A URL by hand, a run that finds nothing new, and the same weights once more.
    metafile = project / WRITTEN[0]
    metafile.write_text(metafile.read_text().replace('Weights: epoch_9.pth', 'Weights: https://example.org/s0.pth'))
    before = written(project)
    monkeypatch.setattr('mobileone_mm.benchmark.model_card._counts', lambda contender: {})  # known by now
    assert write_card(make_card(project, [DETECTOR])) == []
    assert write_card(make_card(project, [DETECTOR], {DETECTOR: weights})) == []
    assert written(project) == before


def test_a_new_config_is_counted_whatever_is_named(project):
    source = project / 'configs' / 'detection' / f'{DETECTOR}.py'
    source.rename(source.with_name('ssdlite_new.py'))
    write_card(make_card(project, ['ssdlite_new']))
    counts = entry(ROOT)['Metadata']
    counts.pop('inference time (ms/im)', None)  # which was not measured again
    assert entry(project, 'ssdlite_new')['Metadata'] == counts
    assert row(project, 'ssdlite_new')['MACs (M)'] == row(ROOT)['MACs (M)']
    assert f'[{DETECTOR}]' not in (project / TABLES).read_text()  # its config is gone
    overview = (project / 'README.md').read_text()
    assert f'/{DETECTOR}.py)' not in overview
    assert '| `ssdlite_new`: [config](configs/detection/ssdlite_new.py) | mAP | - | - | - | - | - |' in overview


@pytest.mark.slow
def test_check_names_what_differs_and_writes_nothing(project):
    readme = project / TABLES
    readme.write_text(readme.read_text().replace('6.16 → 2.94', '6.16 → 2.95'))
    before = written(project)
    result = python('tools/model_card.py', DETECTOR, '--check', cwd=project, check=False)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    message, = [line for line in result.stderr.splitlines() if line.startswith('Error: ')]
    assert f'README.md:{1 + readme.read_text()[:readme.read_text().index("2.95")].count(chr(10))} is' in message
    assert '6.16 → 2.95' in message and '6.16 → 2.94' in message and 'metafile' not in message
    assert written(project) == before


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.folder)
def test_the_best_of_a_log(tmp_path, kind):
    work = log(tmp_path / 'work', {'lr': 1.}, {kind.logged: -1.}, {kind.logged: 0.3}, {kind.logged: float('nan')},
               {kind.logged: 0.1})
    file = work / '20260101_000000' / 'vis_data' / 'scalars.json'
    assert max(logged_values(work, kind.logged)) == max(logged_values(file, kind.logged)) == 0.3
    log(work / 'resumed', {kind.logged: 0.4})
    assert max(logged_values(work, kind.logged)) == 0.4


@pytest.mark.parametrize('old, new', [('<!-- /model-card -->', ''), ('<!-- model-card -->', ''),
                                      ('# ', '<!-- model-card -->')])
@pytest.mark.parametrize('name', ['README.md', TABLES])
def test_markers_that_are_not_there_once(project, no_counting, name, old, new):
    readme = project / name
    readme.write_text(readme.read_text().replace(old, new))
    before = written(project)
    with pytest.raises(ValueError, match=r'README.md. needs the lines .*model-card -->.* each of them once'):
        make_card(project, [DETECTOR])
    assert written(project) == before


@pytest.mark.parametrize('given, message', [
    (dict(configs=['ssdlite_s9']),
     r"'ssdlite_s9' is not among the configs of the model card. They are .*mobileone_s0, "),
    (dict(rounds=0), '--rounds must be at least 1, got 0'),
    (dict(configs=['elsewhere/ssdlite_mobileone_s0.py']), 'is not among the configs'),
    (dict(configs=['configs/detection/ssdlite_mobileone_s2_shapes.py']), 'is not among the configs'),
    (dict(logs={'s9': 'work'}), "'s9' is not among the configs"),
    (dict(logs={DETECTOR: 'nothing'}), "'nothing' is no log of mmengine: .*No such file.* Name the work dir"),
    (dict(logs={DETECTOR: __file__}), 'is no log of mmengine: '),
    (dict(logs={DETECTOR: 'work'}), "'work' has no coco/bbox_mAP. Name the work dir of a training that validated"),
    (dict(checkpoints={DETECTOR: 'nothing.pth'}), "nothing.pth' does not exist"),
    (dict(checkpoints={'ssdlite_mobileone_s1': 's0.pth'}), "These are MobileOne 's0' weights"),
], ids=str)
def test_what_is_refused(project, no_counting, tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    log(tmp_path / 'work', {'mIoU': 50.})
    if 's0.pth' in str(given):
        checkpoint(tmp_path / 's0.pth')
    with pytest.raises((ValueError, OSError), match=message) as error:
        make_card(project, **given)
    assert '\n' not in str(error.value)


def test_latencies_of_several_runs_are_told_apart():
    def model(name, machine):
        counts = dict.fromkeys(('Parameters', 'FLOPs', 'Parameters (train form)', 'FLOPs (train form)'), 1)
        latency = {'inference time (ms/im)': [dict(value=1., hardware=machine)]}
        return dict(Name=name, Config=name, Metadata=counts | latency)
    one = table(KINDS[0], [model('a', 'this one'), model('b', 'this one')])
    assert one.endswith('|\n\nLatency: deploy form, median; this one.\n')
    two = table(KINDS[0], [model('a', 'this one'), model('b', 'another'), model('c', 'this one')])
    assert 'Latency of a, c: deploy form, median; this one.\n\nLatency of b: deploy form, median; another.\n' in two


def test_a_metafile_that_is_none(project, no_counting):
    for text in ('Models: [', '', '- 1'):
        (project / WRITTEN[0]).write_text(text)
        with pytest.raises(ValueError, match=r"metafile.yml' is no metafile with Collections: .* Restore it by git"):
            make_card(project, [DETECTOR])
