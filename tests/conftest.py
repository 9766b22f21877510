"""Fixtures of all tests."""
import threading

import pytest

from mobileone_mm.compat.mmcv_ops import has_compiled_ops
from mobileone_mm.datasets.shapes import make_shapes
from tests.support import tiny
from tests.support.runs import python


def pytest_collection_modifyitems(items):
    if not has_compiled_ops():
        for item in items:
            if item.get_closest_marker('ops'):
                item.add_marker(pytest.mark.skip(reason="needs mmcv's compiled operators"))


@pytest.fixture(autouse=True)
def mmengines_lock(monkeypatch):
    """A lock of its own for each test: mmengine keeps it when a class of its ManagerMixin refuses its arguments."""
    monkeypatch.setattr('mmengine.utils.manager._lock', threading.RLock())


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    """A small drawn dataset."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(root, num_train=16, num_val=6, size=96)
    return root


def _trained(folder, text, shapes_root):
    config = tiny.write_config(folder, text)
    python('tools/train.py', config, '--work-dir', folder / 'work', SHAPES_ROOT=shapes_root)
    return config, folder / 'work' / 'epoch_2.pth'


@pytest.fixture(scope='session')
def tiny_detector(shapes_root, tmp_path_factory):
    """Config and checkpoint of a tiny detector, trained for two epochs of the drawn shapes."""
    return _trained(tmp_path_factory.mktemp('tiny_detector'), tiny.DETECTOR, shapes_root)


@pytest.fixture(scope='session')
def tiny_segmentor(shapes_root, tmp_path_factory):
    """Config and checkpoint of a tiny segmentor, trained for two epochs of the drawn shapes."""
    return _trained(tmp_path_factory.mktemp('tiny_segmentor'), tiny.SEGMENTOR, shapes_root)


@pytest.fixture(scope='session')
def tiny_rtmdet(shapes_root, tmp_path_factory):
    """As tiny_detector, with RTMDet's neck and head."""
    return _trained(tmp_path_factory.mktemp('tiny_rtmdet'), tiny.RTMDET, shapes_root)


@pytest.fixture(scope='session')
def tiny_lraspp(shapes_root, tmp_path_factory):
    """As tiny_segmentor, with LR-ASPP."""
    return _trained(tmp_path_factory.mktemp('tiny_lraspp'), tiny.LRASPP, shapes_root)


@pytest.fixture(scope='session')
def tiny_classifier(shapes_root, tmp_path_factory):
    """Config and checkpoint of a tiny classifier, trained for two epochs of the drawn shapes."""
    pytest.importorskip('mobileone_mm.tasks.pretraining')
    return _trained(tmp_path_factory.mktemp('tiny_classifier'), tiny.CLASSIFIER, shapes_root)
