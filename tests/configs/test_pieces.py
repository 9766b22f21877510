"""Shared parts of all tasks' configs: a piece per arch, and the drawn shapes, each written once."""
import re

import pytest
from mmengine.config import Config

from mobileone_mm.arch import ARCHS, stage_widths
from mobileone_mm.datasets.shapes import CLASSES, PALETTE
from tests.support.paths import ROOT

CONFIGS = ROOT / 'configs'
LEAVES = sorted(CONFIGS.glob('[!_]*/*.py'))
URL = 'https://docs-assets.developer.apple.com/ml-research/datasets/mobileone/mobileone_{}_unfused.pth.tar'


def load(path):
    return Config.fromfile(path, import_custom_modules=False)


def test_a_piece_per_arch_agrees_with_the_backbone():
    pieces = {path.stem.removeprefix('mobileone_'): load(path).mobileone
              for path in (CONFIGS / '_base_').glob('mobileone_s*.py')}
    assert pieces.keys() == ARCHS.keys()
    for arch, piece in pieces.items():
        expected = dict(type='Pretrained', checkpoint=URL.format(arch.removesuffix('_nose')))
        if arch == 's4_nose':
            expected['drop_se'] = True
        assert piece == dict(arch=arch, channels=stage_widths(ARCHS[arch])[1:], init_cfg=expected)


def test_each_url_of_weights_is_in_one_file():
    """Apple's URL is one pattern for all archs; no other file has a full URL."""
    sources = {path: path.read_text() for path in CONFIGS.rglob('*.py')}
    urls = [url for text in sources.values() for url in re.findall(r"https?://[^'\"\s]+\.(?:pth|tar)\b", text)]
    assert urls == [URL]
    # Nor are the parts of a piece written beside it.
    pieces = re.compile(r"arch='|Pretrained")
    assert {path.parent for path, text in sources.items() if pieces.search(text)} == {CONFIGS / '_base_'}


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_leaves_take_the_piece(path):
    cfg = load(path)
    backbone = cfg.model.backbone
    assert backbone.arch == cfg.mobileone.arch
    assert path.parent.name == 'segmentation' or f'_{backbone.arch}' in path.stem
    if path.stem.endswith('_shapes') and 'finetune' not in path.stem:
        assert backbone.init_cfg == dict(type='NearIdentity')
    elif path.parent.name == 'pretraining':
        assert 'init_cfg' not in backbone
    else:
        assert backbone.init_cfg == cfg.mobileone.init_cfg
    # The helpers that a leaf leaves in the config that is run.
    assert {'checkpoint', 'channels', 'classes'}.isdisjoint(cfg.keys())
    assert path.stem.endswith('_shapes') or len(path.read_text().splitlines()) <= 15


@pytest.mark.parametrize('name', ['detection/ssdlite_mobileone_s4', 'segmentation/deeplabv3_mobileone_s4_voc12aug'])
def test_weights_can_be_replaced(name, tmp_path):
    """By --cfg-options, by a config that inherits, and in a dumped config."""
    cfg = load(CONFIGS / f'{name}.py')
    before = cfg.model.backbone.to_dict()
    cfg.merge_from_dict({'model.backbone.init_cfg.checkpoint': 'a.pth', 'model.backbone.deploy': True})
    assert cfg.model.backbone == before | dict(init_cfg=before['init_cfg'] | dict(checkpoint='a.pth'), deploy=True)
    cfg.dump(tmp_path / 'dumped.py')
    assert load(tmp_path / 'dumped.py').model == cfg.model
    (tmp_path / 'own.py').write_text(
        f"_base_ = r'{CONFIGS / name}.py'\nmodel = dict(backbone=dict(init_cfg=dict(checkpoint='b.pth')))\n")
    assert load(tmp_path / 'own.py').model.backbone.init_cfg == before['init_cfg'] | dict(checkpoint='b.pth')
    cfg.merge_from_dict({'model.backbone.init_cfg': None})
    assert cfg.model.backbone.init_cfg is None


def test_shapes_are_those_that_are_drawn():
    shapes = load(CONFIGS / '_base_' / 'shapes.py').shapes
    assert tuple(shapes.classes) == CLASSES and tuple(shapes.palette) == PALETTE
    for path in (path for path in LEAVES if path.stem.endswith('_shapes')):
        text = path.read_text()
        assert not any(f"'{name}'" in text for name in CLASSES)
        cfg = load(path)
        background = path.parent.name == 'segmentation'
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            metainfo = loader.dataset.metainfo
            assert tuple(metainfo.classes) == (*['background'] * background, *CLASSES)
            if path.parent.name != 'pretraining':
                assert tuple(metainfo.palette) == (*[(0, 0, 0)] * background, *PALETTE)
