"""The drawn dataset."""
import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mobileone_mm.datasets.shapes import CLASSES, make_shapes
from mobileone_mm.utils.errors import DiskError
from tests.support.runs import python


def checksum(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob('*')) if path.is_file()}


def test_seeded(tmp_path):
    for name, seed in (('a', 0), ('b', 0), ('c', 5)):
        make_shapes(tmp_path / name, 3, 2, 64, seed)
    assert checksum(tmp_path / 'a') == checksum(tmp_path / 'b') != checksum(tmp_path / 'c')


def test_boxes_and_masks_tell_the_same(shapes_root):
    for split, count in (('train', 16), ('val', 6)):
        coco = COCO(shapes_root / 'annotations' / f'instances_{split}.json')
        names = (shapes_root / 'ImageSets' / 'Segmentation' / f'{split}.txt').read_text().split()
        assert len(names) == len(coco.imgs) == count
        assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        for image in coco.loadImgs(coco.getImgIds()):
            stem = image['file_name'][:-4]
            mask = np.array(Image.open(shapes_root / 'SegmentationClass' / f'{stem}.png'))
            drawn = Image.open(shapes_root / 'JPEGImages' / image['file_name'])
            assert drawn.size == mask.shape[::-1] == (image['width'], image['height'])
            annotations = coco.loadAnns(coco.getAnnIds(image['id']))
            assert set(np.unique(mask)) - {0} == {a['category_id'] for a in annotations}
            assert sum(a['area'] for a in annotations) == (mask > 0).sum()
            for a in annotations:
                x, y, w, h = a['bbox']
                assert (mask[y:y + h, x:x + w] == a['category_id']).any()
                assert x >= 0 and y >= 0 and x + w <= 96 and y + h <= 96


def test_train_and_val_differ(shapes_root):
    first = [Image.open(shapes_root / 'JPEGImages' / f'{split}_0000.jpg') for split in ('train', 'val')]
    assert first[0].tobytes() != first[1].tobytes()


def test_refuses_what_would_overwrite(tmp_path):
    (tmp_path / 'precious.txt').write_text('x')
    with pytest.raises(DiskError, match='not an empty folder. Remove it, or name another'):
        make_shapes(tmp_path, 1, 1)
    with pytest.raises(ValueError, match='at least one image per split and a size of 32, got num_train=0'):
        make_shapes(tmp_path / 'new', 0, 1)
    assert [path.name for path in tmp_path.iterdir()] == ['precious.txt']


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(json, 'dumps', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_shapes(tmp_path / 'shapes', 1, 1, 64)
    assert not (tmp_path / 'shapes').exists()


def test_links_and_empty_folders(tmp_path, monkeypatch):
    """What is there stays what it is, and its target is written."""
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'to_empty').symlink_to('empty')
    (tmp_path / 'to_new').symlink_to(tmp_path / 'disk' / 'new')
    make_shapes(tmp_path / 'to_empty', 1, 1, 32)
    make_shapes(tmp_path / 'to_new', 1, 1, 32)
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    inode = (tmp_path / 'here').stat().st_ino
    make_shapes('.', 1, 1, 32)
    assert (tmp_path / 'here').stat().st_ino == inode
    assert (tmp_path / 'to_empty').is_symlink() and (tmp_path / 'to_new').is_symlink()
    assert checksum(tmp_path / 'empty') == checksum(tmp_path / 'disk' / 'new') == checksum(tmp_path / 'here')
    assert len(checksum(tmp_path / 'here')) == 12


def test_what_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'loop').symlink_to('loop')
    for out, message in (('file', 'file exists and is not an empty folder'), ('file/new', 'Not a directory'),
                         ('loop', 'is a link to itself'), ('a' * 300, 'File name too long')):
        with pytest.raises(DiskError, match=message):
            make_shapes(tmp_path / out, 1, 1, 32)
    with pytest.raises(DiskError, match="Could not write '/proc/new'"):
        make_shapes('/proc/new', 1, 1, 32)

    def refuse(path):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr('pathlib.Path.iterdir', refuse)
    with pytest.raises(DiskError, match='Permission denied. Make that possible, or name another path'):
        make_shapes(tmp_path, 1, 1, 32)


def test_tool(tmp_path):
    python('tools/make_shapes.py', tmp_path / 'shapes', '--num-train', 2, '--num-val', 1, '--size', 64)
    again = python('tools/make_shapes.py', tmp_path / 'shapes', check=False)
    assert again.returncode == 1 and 'Traceback' not in again.stderr and 'not an empty folder' in again.stderr
