"""Text that is not ASCII, in a locale that has nothing else."""
import json
import shutil
import sys

import pytest
from mmengine.config import Config

from mobileone_mm.apis import launch
from mobileone_mm.apis.train_options import prepare_train
from mobileone_mm.datasets.classes import read_classes
from mobileone_mm.datasets.coco import read_coco
from mobileone_mm.engine.config import config_from_file
from mobileone_mm.utils.errors import ConfigError, DataError
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


# --- files that are not in UTF-8, or in it with a mark

def test_configs_that_are_not_in_utf8(tmp_path):
    base, config = tmp_path / 'base.py', tmp_path / 'config.py'
    config.write_text("_base_ = './base.py'\n", encoding='utf-8')
    for content, message in (('a = 1  # kruž\n'.encode('iso8859-2'), r"base\.py' is not in UTF-8: .* Save it as UTF-8"),
                             (b'\xef\xbb\xbfa = 1\n', r"base\.py' begins with a byte order mark")):
        base.write_bytes(content)
        for path in (base, config):
            with pytest.raises(ConfigError, match=message):
                config_from_file(path)
    base.write_bytes('ž'.encode('iso8859-2'))
    config.write_text(f"text = open(r'{base}', encoding='utf-8').read()\n", encoding='utf-8')
    with pytest.raises(UnicodeDecodeError):  # the config's own code
        config_from_file(config)


def test_data_that_is_not_in_utf8(tmp_path):
    file = tmp_path / 'latin.txt'
    file.write_bytes('kružnice\n'.encode('iso8859-2'))
    with pytest.raises(DataError, match=r'latin\.txt, a list of classes, is not in UTF-8: .* Save it as UTF-8'):
        read_classes(str(file))
    file.write_bytes('\ufeffring\n'.encode())
    with pytest.raises(DataError, match='begins with a byte order mark'):
        read_classes(str(file))
    file.write_bytes('{"categories": ["ž"]}'.encode('iso8859-2'))
    with pytest.raises(DataError, match=r'latin\.txt is not in UTF-8: .* Save it as UTF-8'):
        read_coco(str(file))


@pytest.mark.parametrize('who', ['the dataset', 'the metric'])
def test_names_in_a_locale_of_another_encoding(who, data, tmp_path, monkeypatch):
    """In such a locale pycocotools finds no error in the bytes, but other names."""
    monkeypatch.setenv('SHAPES_ROOT', str(data))
    config = tiny.write_config(tmp_path, tiny.DETECTOR, MORE.format(classes=str(tmp_path / 'classes.txt')))
    read = 'train' if who == 'the dataset' else 'val'

    def latin_open(path, *args, **kwargs):
        ours = read == 'train' or sys._getframe(3).f_globals['__name__'].endswith('coco_metric')
        return open(path, *args, **kwargs, encoding='latin-1' if ours else 'utf-8')

    monkeypatch.setattr('pycocotools.coco.open', latin_open, raising=False)
    with pytest.raises(DataError, match=rf"_{read}\.json has a category 'kružnice', and pycocotools.*PYTHONUTF8=1"):
        launch.train(prepare_train(config, work_dir=tmp_path / 'work'))


def test_annotations_that_are_not_in_utf8(data, tmp_path, monkeypatch):
    monkeypatch.setenv('SHAPES_ROOT', str(data))
    file = data / 'annotations' / 'instances_train.json'
    file.write_bytes(file.read_text(encoding='utf-8').encode('iso8859-2'))
    with pytest.raises(DataError, match=r'instances_train\.json is not in UTF-8: .* Save it as UTF-8'):
        launch.train(prepare_train(tiny.write_config(tmp_path, tiny.DETECTOR), work_dir=tmp_path / 'work'))
