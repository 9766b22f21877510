"""Text that is not ASCII, in a locale that has nothing else."""
import json
import shutil

import pytest
from mmengine.config import Config

from tests.support import tiny
from tests.support.runs import python

ASCII = dict(LC_ALL='C', PYTHONUTF8=0, PYTHONCOERCECLOCALE=0)  # with neither, Python takes C for UTF-8


@pytest.fixture
def data(shapes_root, tmp_path):
    """The drawn dataset with names of classes in Czech."""
    for name in ('annotations', 'JPEGImages', 'SegmentationClass', 'ImageSets'):
        shutil.copytree(shapes_root / name, tmp_path / 'data' / name)
    for split in ('train', 'val'):
        file = tmp_path / 'data' / 'annotations' / f'instances_{split}.json'
        content = json.loads(file.read_text(encoding='utf-8'))
        content['categories'][0]['name'] = 'kružnice'
        file.write_text(json.dumps(content, ensure_ascii=False), encoding='utf-8')
    (tmp_path / 'classes.txt').write_text('kružnice\nsquare\ntriangle\nstar\nring\n', encoding='utf-8')
    return tmp_path / 'data'


MORE = """
classes = {classes!r}  # kružnice
names = dict(classes=classes, palette=_base_.shapes.palette)
train_dataloader.update(dataset=dict(metainfo=names))
val_dataloader.update(dataset=dict(metainfo=names))
test_dataloader = val_dataloader
"""


@pytest.mark.parametrize('utf8', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_names_of_a_detector(utf8, data, tiny_detector, tmp_path):
    """pycocotools opens JSON in the locale's encoding, which a line says; all else is read as UTF-8."""
    config = tiny.write_config(tmp_path, tiny.DETECTOR, MORE.format(classes=str(tmp_path / 'classes.txt')))
    environment = ASCII | dict(SHAPES_ROOT=data, PYTHONUTF8=utf8)
    result = python('tools/test.py', config, tiny_detector[1], '--work-dir', tmp_path / 'work', check=False,
                    **environment)
    assert 'Traceback' not in result.stderr
    if utf8:
        assert result.returncode == 0
    else:
        assert result.returncode == 1
        assert 'Error: Text that is not ASCII met the encoding of this locale: ' in result.stderr
        assert 'PYTHONUTF8=1' in result.stderr
        python('tools/predict.py', data / 'JPEGImages' / 'val_0000.jpg', config, tiny_detector[1], '--out-dir',
               tmp_path / 'out', '--device', 'cpu', **environment)


@pytest.mark.slow
def test_names_in_lists_and_configs(data, tiny_segmentor, tmp_path):
    config = tiny.write_config(tmp_path, tiny.SEGMENTOR, """
names = dict(metainfo, classes=('pozadí', *metainfo['classes'][1:]))  # noqa
train_dataloader.update(dataset=dict(metainfo=names))
val_dataloader.update(dataset=dict(metainfo=names))
test_dataloader = val_dataloader
""".replace('metainfo,', '_base_.metainfo,').replace("*metainfo['", "*_base_.metainfo['"))
    python('tools/test.py', config, tiny_segmentor[1], '--work-dir', tmp_path / 'work', SHAPES_ROOT=data, **ASCII)
    dumped = tmp_path / 'work' / 'tiny.py'
    assert Config.fromfile(dumped).test_dataloader.dataset.metainfo.classes[0] == 'pozadí'
    python('tools/export.py', dumped, tiny_segmentor[1], '--out', tmp_path / 'a.pt', '--format', 'torchscript', **ASCII)
    python('tools/predict.py', data / 'JPEGImages' / 'val_0000.jpg', dumped, tiny_segmentor[1], '--out-dir',
           tmp_path / 'out', '--device', 'cpu', **ASCII)
