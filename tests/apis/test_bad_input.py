"""Faults of data, disks and weights: each has a message, and no checkpoint is lost."""
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mobileone_mm import MobileOne, reparameterize_model
from mobileone_mm.checkpoint.read import read_checkpoint
from tests.support import detection, segmentation
from tests.support.paths import ROOT
from tests.support.runs import python, scalars

DETECTOR, SEGMENTOR = detection.SHAPES, segmentation.SHAPES


# --- weights and images, in the model

def test_nan_in_the_weights_when_they_are_folded():
    model = MobileOne('s0')
    model.stage2[1].conv_branches[1].conv.weight.data[0, 0, 0, 0] = float('nan')
    with pytest.warns(UserWarning, match='does not fold to finite numbers: .* training that diverged'):
        model.eval()
    before = model.state_dict().keys()
    with pytest.raises(ValueError, match=r"not fold to finite numbers.* 1 blocks, the first is 'stage2.1'"):
        reparameterize_model(model, inplace=True)
    assert model.state_dict().keys() == before
    model.stage2[1].conv_branches[1].conv.weight.data.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        model.train().eval()


@pytest.mark.parametrize('size', [(1, 1), (7, 33)])
def test_input_smaller_than_the_stride(size):
    """It gives a map of one pixel, as in every mm backbone; only training on a single value is torch's error."""
    model = MobileOne('s0')
    assert model.eval()(torch.randn(1, 3, *size))[0].shape[2:] == (1, -(-size[1] // 32))
    if size == (1, 1):
        with pytest.raises(ValueError, match='Expected more than 1 value per channel when training'):
            model.train()(torch.randn(1, 3, *size))


# --- data

def damaged(shapes_root, tmp_path, annotations=None, split='train'):
    """A copy of the shapes whose COCO file a function has changed."""
    root = tmp_path / 'shapes'
    shutil.copytree(shapes_root, root)
    path = root / 'annotations' / f'instances_{split}.json'
    if annotations is not None:
        coco = json.loads(path.read_text())
        annotations(coco)
        path.write_text(json.dumps(coco))
    return root


def train(root, tmp_path, config=DETECTOR, check=False, **more):
    options = detection.options(epochs=1, **more) if config == DETECTOR else segmentation.tiny_options(**more)
    return python('tools/train.py', config, '--work-dir', tmp_path / 'work', *options, check=check, SHAPES_ROOT=root)


def assert_one_line(result, message):
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert re.search(message, result.stderr), result.stderr[-2000:]


@pytest.mark.parametrize('config, key, got', [
    (DETECTOR, 'bbox_head', 4), pytest.param(SEGMENTOR, 'decode_head', 21, marks=pytest.mark.slow)])
def test_num_classes_that_disagree_with_the_data(config, key, got, shapes_root, tmp_path):
    result = train(shapes_root, tmp_path, config, **{f'model.{key}.num_classes': got})
    classes = 5 if config == DETECTOR else 6
    assert_one_line(result, rf'model\.{key}\.num_classes is {got}, but the train data has {classes} classes: .*circle')


def test_heads_whose_classes_are_compared():
    """Heads in lists and in semi-supervised detectors, but no RPN; only in models with a MobileOne."""
    from types import SimpleNamespace

    from mobileone_mm import NumClassesFitHook
    from mobileone_mm.utils.errors import DataError

    class Head(nn.Module):
        num_classes = 80

    class RPNHead(Head):
        pass

    metainfo = dict(classes=('dog', 'cat'))

    def check(**children):
        dataset = SimpleNamespace(metainfo=metainfo)
        model = nn.ModuleDict(children)
        NumClassesFitHook().before_val(SimpleNamespace(model=model, val_dataloader=SimpleNamespace(dataset=dataset)))

    backbone = MobileOne('s0')
    check(backbone=backbone, bbox_head=RPNHead(), neck=Head())
    check(bbox_head=Head())
    check(backbone=backbone, auxiliary_head=nn.ModuleList([Head()]))  # as STDC's, of boundaries
    for name, children in (
            ('roi_head.bbox_head.0', dict(roi_head=nn.ModuleDict(dict(bbox_head=nn.ModuleList([Head()]))))),
            ('student.bbox_head', dict(student=nn.ModuleDict(dict(bbox_head=Head()))))):
        message = rf'model\.{name}\.num_classes is 80, but the val data has 2 classes: dog, cat'
        with pytest.raises(DataError, match=message):
            check(backbone=backbone, **children)
    metainfo['thing_classes'] = ('cat', )  # panoptic: the boxes' classes are some of the pixels'
    check(backbone=backbone, bbox_head=Head())


@pytest.mark.slow
@pytest.mark.parametrize('content, message', [
    ('', r'instances_train.json \(empty\)'),
    ('{"images": [', r"instances_train.json is no JSON, or is cut short: .* It ends '\{\"images\": \['"),
    ('{}', "instances_train.json is not in the format of COCO: it has no 'images'")],
    ids=['no bytes', 'cut short', 'no COCO'])
def test_an_annotation_file_that_is_none(content, message, shapes_root, tmp_path):
    root = damaged(shapes_root, tmp_path)
    (root / 'annotations' / 'instances_train.json').write_text(content)
    assert_one_line(train(root, tmp_path), message)


@pytest.mark.slow
def test_checks_can_be_switched_off(shapes_root, tmp_path):
    names = {'num_classes_fit': 'NumClassesFitHook', 'checkpoint_fit': 'CheckpointFitHook', 'coco_fit': 'CocoFitHook',
             'class_names_fit': 'ClassNamesFitHook', 'masks_fit': 'MasksFitHook'}
    off = {f'default_hooks.{key}': None for key in names}
    for options, expected in (({}, True), (off, False)):
        result = train(shapes_root, tmp_path, check=True, **options)
        for name in names.values():  # in the log's list of hooks
            assert (f') {name}' in result.stdout) == expected


NO_IMAGES = r"No images are left .* Check ann_file, filter_cfg, and that metainfo\['classes'\] are the names in"


@pytest.mark.parametrize('split', ['train', pytest.param('val', marks=pytest.mark.slow)])
def test_annotations_without_images(split, shapes_root, tmp_path):
    root = damaged(shapes_root, tmp_path, lambda coco: coco.update(images=[], annotations=[]), split)
    assert_one_line(train(root, tmp_path), NO_IMAGES)


@pytest.mark.slow
def test_annotations_of_other_classes(shapes_root, tmp_path):
    def rename(coco):
        for category in coco['categories']:
            category['name'] += 's'

    assert_one_line(train(damaged(shapes_root, tmp_path, rename), tmp_path, **{
        'train_dataloader.dataset.filter_cfg.filter_empty_gt': True}),
        r"5 of the 5 classes of CocoDataset are not in .*train.json: 'circle' \(nearest: 'circles'\)")


@pytest.mark.slow
@pytest.mark.parametrize('task, damage, message', [
    (DETECTOR, 'missing', 'FileNotFoundError: .*train_0003'),
    (SEGMENTOR, 'corrupt', 'failed to load image: .*train_0003')])
def test_an_image_missing_or_corrupt_in_the_second_epoch(task, damage, message, shapes_root, tmp_path):
    """The run ends with the file's name, and the last checkpoint stays whole."""
    root, work = damaged(shapes_root, tmp_path), tmp_path / 'work'
    train(root, tmp_path, task, check=True)
    before = (work / 'epoch_1.pth').read_bytes()
    image = next((root / 'JPEGImages').glob('train_0003.*'))
    image.unlink() if damage == 'missing' else image.write_bytes(b'\xff\xd8 no jpeg')
    options = detection.options() if task == DETECTOR else segmentation.tiny_options(**{'train_cfg.max_epochs': 2})
    command = ['tools/train.py', task, '--work-dir', work, '--resume', *options]
    result = python(*command, check=False, SHAPES_ROOT=root)
    assert result.returncode == 1 and re.search(message, result.stderr), result.stderr[-2000:]
    assert (work / 'epoch_1.pth').read_bytes() == before and not (work / 'epoch_2.pth').exists()
    shutil.copy(shapes_root / 'JPEGImages' / image.name, image)
    python(*command, SHAPES_ROOT=root)
    assert read_checkpoint(work / 'epoch_2.pth')['meta']['epoch'] == 2


@pytest.mark.slow
def test_boxes_of_no_size(shapes_root, tmp_path):
    """Boxes without area or outside the image do not reach the loss."""

    def flatten(coco):
        boxes = [[10, 10, 0, 20], [10, 10, 20, 0], [500, 500, 20, 20], [-40, -40, 20, 20], [10, 10, 0, 0]]
        for annotation, box in zip(coco['annotations'], boxes, strict=False):
            annotation.update(bbox=box, area=box[2] * box[3])

    train(damaged(shapes_root, tmp_path, flatten), tmp_path, check=True)
    losses = [row['loss'] for row in scalars(tmp_path / 'work') if 'loss' in row]
    assert losses and all(0 < loss < 1e3 for loss in losses)


@pytest.mark.slow
def test_an_image_without_boxes(shapes_root, tmp_path):
    """Batches without any ground truth have a finite loss."""
    root = damaged(shapes_root, tmp_path, lambda coco: coco.update(annotations=[]))
    train(root, tmp_path, check=True, **{'train_dataloader.dataset.filter_cfg': None, 'default_hooks.coco_fit': None})
    losses = [row['loss'] for row in scalars(tmp_path / 'work') if 'loss' in row]
    assert losses and all(0 <= loss < 1e3 for loss in losses)


# --- disks and interruptions

def test_a_work_dir_that_cannot_be_written(shapes_root, tmp_path):
    (tmp_path / 'file').write_text('')
    for tool in (['train.py', DETECTOR], ['test.py', DETECTOR, __file__]):
        result = python('tools/' + tool[0], *tool[1:], '--work-dir', tmp_path / 'file' / 'work', check=False,
                        SHAPES_ROOT=shapes_root)
        assert_one_line(result, f"Cannot write to the work dir '{tmp_path}/file/work': .* "
                                'Name another one with --work-dir')


@pytest.mark.slow
def test_a_disk_that_fills_up(shapes_root, tmp_path):
    """A limit on file size stands for a full disk; it is below the size of the present checkpoint."""
    train(shapes_root, tmp_path, check=True)
    checkpoint = tmp_path / 'work' / 'epoch_1.pth'
    before = checkpoint.read_bytes()
    limit = len(before) // 1024 - 100
    command = shlex.join(map(str, [sys.executable, 'tools/train.py', DETECTOR, '--work-dir', tmp_path / 'work',
                                   '--resume', *detection.options()]))
    result = subprocess.run(['bash', '-c', f'ulimit -f {limit}; {command}'], cwd=ROOT, capture_output=True, text=True,
                            env=os.environ | dict(PYTHONPATH=str(ROOT), SHAPES_ROOT=str(shapes_root)), check=False)
    assert_one_line(result, r"'.*epoch_2.pth': File too large.*epoch_1.pth' is complete: go on from it with --resume")
    assert checkpoint.read_bytes() == before
    assert not (tmp_path / 'work' / 'epoch_2.pth').exists() and not list((tmp_path / 'work').glob('.*part'))


@pytest.mark.slow
def test_ctrl_c(shapes_root, tmp_path):
    """The exit status is the shell's for an interrupt; the last checkpoint is whole, named, and resumes."""
    work, options = tmp_path / 'work', detection.options(epochs=50, **{'train_dataloader.num_workers': 1})
    command = ['tools/train.py', DETECTOR, '--work-dir', work]
    process = subprocess.Popen(
        [sys.executable, *map(str, command), *options], cwd=ROOT, start_new_session=True, text=True,
        env=os.environ | dict(PYTHONPATH=str(ROOT), SHAPES_ROOT=str(shapes_root)), stderr=subprocess.PIPE,
        # The children of a job in the background, as CI may be, ignore the signal.
        stdout=subprocess.DEVNULL, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        for _ in range(1200):
            if (work / 'epoch_1.pth').exists() and any(row.get('step', 0) >= 5 for row in scalars(work)):
                break
            assert process.poll() is None
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the workers too
        stderr = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert re.search(r"Interrupted\. '.*epoch_\d+\.pth' is complete: go on from it with --resume", stderr), stderr
    assert 'Traceback' not in stderr
    for path in work.glob('*.pth'):
        assert read_checkpoint(path)['state_dict']
    assert not list(work.glob('.*part'))


def test_all_configs_have_the_checks():
    """Also under mm's tools."""
    for path in (ROOT / 'configs').glob('[!_]*/*.py'):
        checks = {'checkpoint_fit', 'class_names_fit', 'num_classes_fit', 'coco_fit', 'masks_fit'}
        assert checks <= Config.fromfile(path).default_hooks.keys(), path
