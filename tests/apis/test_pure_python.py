"""Pure Python configs: what they hold are classes, and in what mmengine dumps of them, paths; all tools take both."""
import json

import pytest
import torch

from mobileone_mm import MobileOne
from mobileone_mm.apis import train_options
from mobileone_mm.apis.launch import test as run_test
from mobileone_mm.apis.predict import predict
from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.apis.train_options import prepare_train
from mobileone_mm.deploy.export import export
from mobileone_mm.engine.config import config_from_file
from mobileone_mm.utils.errors import ConfigError
from mobileone_mm.utils.types import task_library, type_name
from tests.support.detection import metrics as detector_metrics
from tests.support.pure_python import write_pure_config
from tests.support.runs import logged, python


@pytest.fixture(params=['detector', 'segmentor'])
def pure(request, shapes_root, tmp_path, monkeypatch):
    """Kind, config, and the checkpoint of the text config with the same network."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    checkpoint = request.getfixturevalue(f'tiny_{request.param}')[1]
    return request.param, write_pure_config(tmp_path, request.param), checkpoint


def metrics(kind, folder):
    return detector_metrics(folder) if kind == 'detector' else logged(folder, 'mIoU')


def test_tools_take_classes_and_paths(pure, shapes_root, tmp_path):
    """The tool tests the checkpoint and dumps the config; then all goes with either of them, with equal results."""
    kind, config, checkpoint = pure
    python('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'test', SHAPES_ROOT=shapes_root)
    expected = metrics(kind, tmp_path / 'test')
    answers = []
    image = shapes_root / 'JPEGImages' / 'val_0000.jpg'
    for name, each in (('class', config), ('path', tmp_path / 'test' / 'pure.py')):
        file = tmp_path / f'{name}.pt'
        export(each, checkpoint, file, 'torchscript')
        for model in (checkpoint, file):
            out = tmp_path / name / model.stem
            assert predict(image, each, model, out, device='cpu', score_thr=0.01) == dict(files=1, failed={})
            answers.append(json.loads((out / 'preds' / 'val_0000.json').read_text(encoding='utf-8')))
    for answer in answers[1:]:
        assert answer.keys() == answers[0].keys() and len(answer.get('boxes', ())) == len(answers[0].get('boxes', ()))
    # The exported file in the real Runner, with the config that mm dumped.
    run_test(prepare_test(tmp_path / 'test' / 'pure.py', file, work_dir=str(tmp_path / 'exported')))
    got = metrics(kind, tmp_path / 'exported')
    assert got.keys() == expected.keys() and got == pytest.approx(expected, abs=2e-2)


def test_amp(pure, tmp_path, monkeypatch):
    monkeypatch.setattr(train_options, 'get_device', lambda: 'cuda')
    cfg = prepare_train(pure[1], work_dir=str(tmp_path / 'amp'), amp=True)
    assert type_name(cfg.optim_wrapper) == 'AmpOptimWrapper'
    (tmp_path / 'dumped.py').write_text(config_from_file(pure[1]).pretty_text, encoding='utf-8')
    assert 'mmengine.optim.OptimWrapper' in (tmp_path / 'dumped.py').read_text(encoding='utf-8')
    prepare_train(tmp_path / 'dumped.py', work_dir=str(tmp_path / 'amp'), amp=True)


@pytest.mark.slow
def test_train_and_options_of_test(pure, shapes_root, tmp_path):
    kind, config, checkpoint = pure
    python('tools/train.py', config, '--work-dir', tmp_path / 'work', SHAPES_ROOT=shapes_root)
    dumped, out = tmp_path / 'work' / 'pure.py', tmp_path / ('a.pkl' if kind == 'detector' else 'masks')
    python('tools/test.py', dumped, tmp_path / 'work' / 'epoch_1.pth', '--work-dir', tmp_path / 'a',
           SHAPES_ROOT=shapes_root)
    assert metrics(kind, tmp_path / 'a') == metrics(kind, tmp_path / 'work')
    python('tools/test.py', dumped, checkpoint, '--work-dir', tmp_path / 'b', '--tta', SHAPES_ROOT=shapes_root)
    python('tools/test.py', config, checkpoint, '--work-dir', tmp_path / 'c', '--tta', '--out', out, '--show-dir',
           tmp_path / 'shown', SHAPES_ROOT=shapes_root)
    python('tools/reparameterize.py', config, checkpoint, tmp_path / 'deployed.pth', SHAPES_ROOT=shapes_root)
    assert out.exists()


def test_a_wrong_import_is_one_line(tmp_path, shapes_root, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    config = write_pure_config(tmp_path, 'detector', 'from mmdet.models import NoSuchHead\n')
    with pytest.raises(ConfigError, match=r'Failed to import NoSuchHead from mmdet\.models in .*pure\.py, line \d+'):
        config_from_file(config)


def test_type_name():
    assert [type_name(kind) for kind in ('Resize', 'mmdet.Resize', 'mmdet.datasets.transforms.Resize', MobileOne,
                                         dict(type=MobileOne), dict(type='a.B'), dict(), None)] == \
        ['Resize', 'Resize', 'Resize', 'MobileOne', 'MobileOne', 'B', '', '']


def test_task_library():
    from mmdet.models import SingleStageDetector

    class Own(SingleStageDetector):
        pass

    def dataset(kind):
        return dict(test_dataloader=dict(dataset=dict(type=kind)))

    assert task_library(dict(default_scope='mmseg', model=dict(type=Own))) == 'mmseg'
    assert task_library(dict(default_scope=None, model=dict(type=Own))) == 'mmdet'
    assert task_library(dict(model=dict(type='mmdet.SingleStageDetector'))) == 'mmdet'
    assert task_library(dict(model=dict(type='mobileone_mm.tasks.detection.SSDLiteHead'))) == 'mmdet'
    assert task_library(dict(model=dict(type='Own'), **dataset('mmseg.ADE20KDataset'))) == 'mmseg'
    assert task_library(dict(default_scope='mmengine', model=dict(type=Own))) == 'mmdet'
    assert task_library(dict(model=dict(type='Own'), test_dataloader=None)) is None


def test_weights_by_class_or_path_are_checked(tmp_path):
    """As in mm's own pure Python configs; mmengine would load what fits and say nothing."""
    from mmengine.model import PretrainedInit

    torch.save(dict(state_dict=MobileOne('s0').state_dict()), tmp_path / 's0.pth')
    for kind in (PretrainedInit, 'mmengine.model.PretrainedInit', 'Pretrained'):
        init_cfg = dict(type=kind, checkpoint=str(tmp_path / 's0.pth'))
        with pytest.raises(ValueError, match="These are MobileOne 's0' weights"):
            MobileOne('s1', init_cfg=init_cfg).init_weights()
        MobileOne('s0', init_cfg=init_cfg).init_weights()
        with pytest.raises(ValueError, match='takes checkpoint'):
            MobileOne('s0', init_cfg=init_cfg | dict(path='x'))


def test_norms_by_class_or_path():
    for kind in ('BN', torch.nn.BatchNorm2d, 'torch.nn.BatchNorm2d', 'torch.nn.modules.batchnorm.BatchNorm2d'):
        norms = [module for module in MobileOne('s0', norm_cfg=dict(type=kind)).modules()
                 if isinstance(module, torch.nn.BatchNorm2d)]
        assert len(norms) > 100
