"""Exported classifiers answer as their checkpoints do, in tests and in predictions."""
import json
import pickle

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mobileone_mm.apis.predict import predict
from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.datasets.images import read_images
from mobileone_mm.deploy.export import export
from mobileone_mm.deploy.formats import FORMATS
from mobileone_mm.deploy.reader import ExportedFile
from mobileone_mm.deploy.wrappers import make_deployable
from mobileone_mm.utils.errors import ArgumentError, ConfigError
from tests.support import tiny
from tests.support.formats import exported, formats, require
from tests.support.runs import logged, python

pytestmark = pytest.mark.slow  # exports, which together take minutes


def results_of(config, model, work_dir, shapes_root):
    """By the tool: accuracies, and the scores of all images, (N, num_classes)."""
    python('tools/test.py', config, model, '--work-dir', work_dir, '--out', work_dir / 'out.pkl',
           SHAPES_ROOT=shapes_root)
    results = pickle.loads((work_dir / 'out.pkl').read_bytes())
    return logged(work_dir, 'accuracy/top1'), np.stack([result['pred_score'].numpy() for result in results])


def predicted(folder):
    """What predictions say, image by image: label -> score, best first."""
    answers = [json.loads(file.read_text()) for file in sorted((folder / 'preds').glob('*.json'))]
    assert all(answer.keys() == {'file', 'width', 'height', 'scores'} for answer in answers)
    assert len(answers) == len(list((folder / 'vis').glob('*.png')))
    return [{entry['label']: entry['score'] for entry in answer['scores']} for answer in answers]


def assert_alike(got, expected, tolerance=1e-5):
    assert [list(scores) for scores in got] == [list(scores) for scores in expected]
    assert got == [pytest.approx(scores, abs=tolerance) for scores in expected]


@pytest.fixture(scope='module')
def val(shapes_root):
    return shapes_root / 'single' / 'val'


@pytest.fixture(scope='module')
def of_checkpoint(tiny_classifier, shapes_root, tmp_path_factory):
    """Accuracies and scores of the checkpoint, by tools/test.py."""
    accuracy, scores = results_of(*tiny_classifier, tmp_path_factory.mktemp('checkpoint'), shapes_root)
    assert accuracy['accuracy/top3'] > 0 and np.ptp(scores, axis=0).max() > 1e-3
    return accuracy, scores


@pytest.fixture(scope='module')
def onnx_file(tiny_classifier, tmp_path_factory):
    require('onnx')
    out = tmp_path_factory.mktemp('onnx') / 'classifier.onnx'
    export(*tiny_classifier, out, 'onnx')
    return out


@formats(*FORMATS)
def test_accuracy_and_scores_are_those_of_the_checkpoint(name, tiny_classifier, of_checkpoint, shapes_root, tmp_path):
    fmt = require(name)
    out = tmp_path / f'classifier{fmt.suffix}'
    printed = exported(tiny_classifier, out, name)
    assert 'Gives scores: probability of each class, 0 to 1.' in printed and '64, 64' in printed
    if fmt.run is None:
        return
    assert 'scores differ by at most' in printed
    accuracy, scores = results_of(tiny_classifier[0], out, tmp_path / 'work', shapes_root)
    assert accuracy == of_checkpoint[0]
    np.testing.assert_allclose(scores, of_checkpoint[1], atol=1e-5)


@pytest.mark.parametrize('options', [['--batch', '4'], ['--dynamic']], ids=' '.join)
def test_shapes_of_files(options, tiny_classifier, of_checkpoint, shapes_root, tmp_path):
    """Six images in batches of four; and any size, of which the pipeline's crop is one."""
    require('onnx')
    exported(tiny_classifier, tmp_path / 'a.onnx', 'onnx', *options)
    _, scores = results_of(tiny_classifier[0], tmp_path / 'a.onnx', tmp_path / 'work', shapes_root)
    np.testing.assert_allclose(scores, of_checkpoint[1], atol=1e-5)


def test_fewer_bits(tiny_classifier, onnx_file, val, tmp_path):
    images = list(read_images(val, (64, 64)))
    expected = np.concatenate([ExportedFile(onnx_file)(image)['scores'] for image in images])
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-5)
    for number, options in enumerate((dict(half=True), dict(calibration=val))):
        out = tmp_path / f'{number}.onnx'
        assert 'scores differ by at most' in export(*tiny_classifier, out, 'onnx', **options)['agreement']
        got = np.concatenate([ExportedFile(out)(image)['scores'] for image in images])
        assert got.dtype == np.float32 and 0 < np.abs(got - expected).max() < 0.02


def test_predictions_are_those_of_the_test(tiny_classifier, onnx_file, of_checkpoint, val, tmp_path):
    """The images are prepared alike: resized, then cropped."""
    classes, found = Config.fromfile(tiny_classifier[0]).shapes.classes, []
    for name, model in (('checkpoint', tiny_classifier[1]), ('file', onnx_file)):
        python('tools/predict.py', val, tiny_classifier[0], model, '--out-dir', tmp_path / name)
        found.append(predicted(tmp_path / name))
    assert_alike(*found)
    for scores, expected in zip(found[0], of_checkpoint[1], strict=True):
        assert list(scores) == [classes[label] for label in np.argsort(-expected)[:5]]
        assert list(scores.values()) == pytest.approx(np.sort(expected)[::-1][:5].tolist(), abs=1e-6)


def test_order_of_channels(tiny_classifier, onnx_file, val, tmp_path):
    """A model that takes BGR, as mm loads images, has a file that takes RGB all the same."""
    require('onnx')
    options = {'model.data_preprocessor.to_rgb': False}
    export(*tiny_classifier, tmp_path / 'bgr.onnx', 'onnx', cfg_options=options)
    predict(val, *tiny_classifier, tmp_path / 'checkpoint', cfg_options=options, device='cpu')
    for name, file in (('bgr', tmp_path / 'bgr.onnx'), ('rgb', onnx_file)):
        predict(val, tiny_classifier[0], file, tmp_path / name)
    bgr, rgb, expected = (predicted(tmp_path / name) for name in ('bgr', 'rgb', 'checkpoint'))
    assert_alike(bgr, expected)
    assert rgb != [pytest.approx(scores, abs=1e-4) for scores in expected]


def test_another_size(tiny_classifier, val, tmp_path):
    """--shape resizes and does not crop. A file of another size than the pipeline's does not go with it."""
    config = tiny.write_config(tmp_path, tiny.CLASSIFIER, """
test_pipeline[1:3] = [dict(type='Resize', scale=(40, 48), backend='pillow')]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
""")
    predict(val, config, tiny_classifier[1], tmp_path / 'pipeline', device='cpu')
    predict(val, *tiny_classifier, tmp_path / 'shape', device='cpu', shape=(48, 40))
    expected = predicted(tmp_path / 'pipeline')
    assert_alike(predicted(tmp_path / 'shape'), expected, 1e-7)
    out = tmp_path / 'small.pt'
    assert export(config, tiny_classifier[1], out, 'torchscript')['shape'] == [1, 3, 48, 40]
    predict(val, config, out, tmp_path / 'file')
    assert_alike(predicted(tmp_path / 'file'), expected)
    result = python('tools/test.py', tiny_classifier[0], out, '--work-dir', tmp_path / 'work', check=False)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert 'takes images of 48x40, and the test pipeline of' in result.stderr and 'gives 64x64.' in result.stderr
    with pytest.raises(ConfigError, match='takes images of 48x40, and the test pipeline .* gives 64x64. Export'):
        predict(val, tiny_classifier[0], out, tmp_path / 'other')
    with pytest.raises(ArgumentError, match='takes images of 48x40. Leave --shape out'):
        predict(val, tiny_classifier[0], out, tmp_path / 'other', shape=(64, 64))


@pytest.mark.parametrize('options, message', [
    (dict(nms=True), 'NMS is for detectors, and this is a classifier. Leave it out'),
    (dict(argmax=True), 'argmax is for segmentors, and this is a classifier. Leave it out'),
])
def test_options_of_others(options, message, tiny_classifier, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        export(*tiny_classifier, tmp_path / 'a.pt', 'torchscript', **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('head', [
    dict(type='MultiLabelLinearClsHead', num_classes=5, in_channels=128), None])
def test_heads_that_predict_otherwise(head, tiny_classifier):
    cfg = Config.fromfile(tiny_classifier[0])
    cfg.model.head = head
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    with pytest.raises(ConfigError, match="Cannot export ImageClassifier with .*Allowed are ImageClassifiers whose"):
        make_deployable(MODELS.build(cfg.model), cfg)


def test_files_of_other_tasks(tiny_detector, onnx_file):
    with pytest.raises(ConfigError, match='is for classification, and .* is not. Name the config'):
        prepare_test(tiny_detector[0], onnx_file, work_dir=onnx_file.parent)
