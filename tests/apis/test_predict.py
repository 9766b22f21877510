"""Predictions on images and with configs that are not as usual."""
import json
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mobileone_mm.apis.predict import build_inferencer, predict
from mobileone_mm.deploy.export import export
from mobileone_mm.engine.config import class_colours, read_config
from mobileone_mm.utils.errors import ArgumentError, ConfigError
from tests.support import tiny
from tests.support.runs import python

NO_DATA = """
train_dataloader = val_dataloader = test_dataloader = None
val_cfg = test_cfg = val_evaluator = test_evaluator = test_pipeline = crop_size = None
"""


def untrained(folder, text, more, meta=None, name='tiny'):
    """A config and a checkpoint of its network as it is built."""
    folder.mkdir(exist_ok=True)
    config = tiny.write_config(folder, text, more)
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict(), meta=meta or {}), folder / f'{name}.pth')
    return config, folder / f'{name}.pth'


@pytest.fixture(scope='module')
def image(shapes_root):
    return shapes_root / 'JPEGImages' / 'val_0000.jpg'


def test_some_classes_of_a_dataset(image, tmp_path):
    """The palette is that of the whole dataset, and the checkpoint has the right colours, as mmseg saves them."""
    more = """
metainfo = dict(_delete_=True, classes=('background', 'cat'))
both = dict(type='PascalVOCDataset', metainfo=metainfo)
train_dataloader = dict(dataset=both)
val_dataloader = dict(dataset=both)
test_dataloader = val_dataloader
model = dict(decode_head=dict(num_classes=2))
"""
    cat = [64, 0, 0]
    trained = untrained(tmp_path / 'a', tiny.SEGMENTOR, more,
                        dict(dataset_meta=dict(classes=('background', 'cat'), palette=[[0, 0, 0], cat])))
    assert predict(image, *trained, tmp_path / 'out', device='cpu') == dict(files=1, failed={})
    plain = untrained(tmp_path / 'b', tiny.SEGMENTOR, more)  # weights alone: by the names in METAINFO
    for config, checkpoint in (trained, plain):
        model = build_inferencer(read_config(config), checkpoint, 'cpu').model
        assert model.dataset_meta == dict(classes=['background', 'cat'], palette=[(0, 0, 0), tuple(cat)])
    cfg = read_config(plain[0])
    assert len(set(class_colours(cfg, ['background', 'unknown', 'more']))) == 3
    assert predict(image, *plain, tmp_path / 'again', device='cpu') == dict(files=1, failed={})


@pytest.mark.parametrize('names', [('background', 'shape'), ('shape', )])
def test_one_output_channel(names, image, tmp_path):
    more = f"""
meta = dict(_delete_=True, classes={names!r}, palette={[(9, 9, 9), (255, 0, 0)][:len(names)]!r})
model = dict(decode_head=dict(num_classes={len(names)}, out_channels=1, threshold=0.5,
                              loss_decode=dict(use_sigmoid=True)))
train_dataloader = dict(dataset=dict(metainfo=meta))
val_dataloader = dict(dataset=dict(metainfo=meta))
test_dataloader = val_dataloader
"""
    config, checkpoint = untrained(tmp_path, tiny.SEGMENTOR, more)
    if len(names) == 1:
        with pytest.raises(ConfigError, match="labels 0 and 1, and there is but one class, 'shape'. Name both"):
            predict(image, config, checkpoint, tmp_path / 'out', device='cpu')
        return
    predict(image, config, checkpoint, tmp_path / 'out', device='cpu')
    answer = json.loads((tmp_path / 'out' / 'preds' / f'{image.stem}.json').read_text(encoding='utf-8'))
    assert answer['shares'] and set(answer['shares']) <= set(names)
    mask = cv2.imread(str(tmp_path / 'out' / 'preds' / answer['mask']), cv2.IMREAD_UNCHANGED)
    assert mask.dtype == np.uint8 and mask.max() <= 1


def test_odd_images_do_not_end_the_folder(image, tiny_detector, tmp_path, monkeypatch):
    """Of a pipeline that keeps the ratio, one row of pixels leaves no image at all."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in ('a', 'z'):
        (folder / f'{name}.jpg').write_bytes(image.read_bytes())
    cv2.imwrite(str(folder / 'line.png'), np.full((1, 5760, 3), 90, np.uint8))
    cv2.imwrite(str(folder / 'dot.png'), np.full((1, 1, 3), 90, np.uint8))
    (folder / 'broken.jpg').write_bytes(b'')
    config = tmp_path / 'tiny.py'
    config.write_text(f"_base_ = r'{tiny_detector[0]}'\ntest_pipeline = [*_base_.test_pipeline]\n"
                      "test_pipeline[1] = dict(type='Resize', scale=(128, 128), keep_ratio=True)\n"
                      "test_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n", encoding='utf-8')
    result = python('tools/predict.py', folder, config, tiny_detector[1], '--out-dir', tmp_path / 'out', '--device',
                    'cpu', check=False)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    done = {file.stem for file in (tmp_path / 'out' / 'preds').glob('*.json')}
    assert {'a', 'z'} <= done and not done & {'line', 'broken'}
    assert re.search(r'line\.png: 5760x1 pixels: \w+: .', result.stderr)
    assert 'broken.jpg: could not read' in result.stderr and f'{5 - len(done)} of 5 images' in result.stderr
    monkeypatch.setenv('MOBILEONE_MM_TRACEBACK', '1')  # for those who want to see where
    with pytest.raises(cv2.error):
        predict(folder / 'line.png', config, tiny_detector[1], tmp_path / 'out', device='cpu')


@pytest.mark.parametrize('kind', [
    'detector', *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('segmentor', 'classifier'))])
def test_no_test_data(kind, image, tmp_path, request):
    """The classes are in the checkpoint; how large an image is to be must be said."""
    text, trained = getattr(tiny, kind.upper()), request.getfixturevalue(f'tiny_{kind}')
    config = tiny.write_config(tmp_path, text, NO_DATA)
    result = python('tools/predict.py', image, config, trained[1], '--out-dir', tmp_path / 'out', check=False)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert 'has no test_dataloader, val_dataloader or test_pipeline' in result.stderr and '--shape H W' in result.stderr
    with pytest.raises(ConfigError, match='has no fixed input size: .*--shape H W'):
        export(config, trained[1], tmp_path / 'a.pt', 'torchscript')
    export(config, trained[1], tmp_path / 'a.pt', 'torchscript', shape=(128, 128))
    runs = (('given', trained[1], config, (128, 128)), ('file', tmp_path / 'a.pt', config, None),
            ('usual', trained[1], trained[0], None))
    for name, model, cfg, shape in runs:
        assert not predict(image, cfg, model, tmp_path / name, 0.01, 'cpu', shape=shape)['failed']
    answers = [json.loads((tmp_path / name / 'preds' / f'{image.stem}.json').read_text(encoding='utf-8'))
               for name in ('given', 'file', 'usual')]
    if kind == 'detector':
        assert [box['label'] for box in answers[0]['boxes']] == [box['label'] for box in answers[2]['boxes']]
    elif kind == 'classifier':  # whose usual pipeline crops
        for best, other in zip(answers[0]['scores'], answers[1]['scores'], strict=True):
            assert best['label'] == other['label'] and best['score'] == pytest.approx(other['score'], abs=1e-5)
    else:
        assert answers[0]['shares'] == answers[2]['shares'] == pytest.approx(answers[1]['shares'], abs=0.01)
    with pytest.raises(ArgumentError, match='takes images of 128x128. Leave --shape out'):
        predict(image, config, tmp_path / 'a.pt', tmp_path / 'file', shape=(64, 64), device='cpu')


def test_a_dataset_in_a_wrapper_and_other_settings(image, tiny_detector, tmp_path):
    """What mm's inferencers do not take: a wrapped dataset, a named collate function, no visualizer."""
    config = tmp_path / 'tiny.py'
    config.write_text(f"""_base_ = r'{tiny_detector[0]}'
test_dataloader = dict(collate_fn=dict(type='pseudo_collate'), dataset=dict(
    _delete_=True, type='ConcatDataset', datasets=[_base_.test_dataloader.dataset]))
visualizer = None
""", encoding='utf-8')
    assert predict(image, config, tiny_detector[1], tmp_path / 'out', device='cpu') == dict(files=1, failed={})
