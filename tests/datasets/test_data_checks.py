"""Data that does not fit its config: said in one line before training or testing, through what the tools call."""
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mobileone_mm.apis import launch
from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.apis.train_options import prepare_train
from mobileone_mm.datasets.coco import check_entries, read_categories
from mobileone_mm.datasets.shapes import CLASSES
from mobileone_mm.utils.errors import DataError
from tests.support import tiny
from tests.support.runs import python

TRAIN, VAL = 'instances_train.json', 'instances_val.json'
_NUMBERS = itertools.count()
TO_TRAIN = 'the training was about to begin'


@pytest.fixture
def root(shapes_root, tmp_path, monkeypatch):
    """A copy of the shapes to damage."""
    shutil.copytree(shapes_root, tmp_path / 'shapes')
    monkeypatch.setenv('SHAPES_ROOT', str(tmp_path / 'shapes'))
    # Most of the time before a training: mmengine's layout of the config that it logs, and collections of garbage.
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: ''))
    monkeypatch.setattr('gc.collect', lambda *args: 0)
    return tmp_path / 'shapes'


def change(root, function, *names):
    for name in names or (TRAIN, VAL):
        path = root / 'annotations' / name
        coco = json.loads(path.read_text())
        function(coco)
        path.write_text(json.dumps(coco))


def train(tmp_path, text, more='', options=None, full=False):
    """As tools/train.py, in this process; unless ``full``, up to the first batch, which raises TO_TRAIN."""
    config = tiny.write_config(tmp_path, text, more)
    cfg = prepare_train(config, work_dir=str(tmp_path / 'work'), cfg_options=options)
    # Runs of one name and second would share mmengine's scope and log.
    cfg.experiment_name = f'{tmp_path.name}_{next(_NUMBERS)}'
    if not full:
        cfg.custom_hooks = [dict(type='StopBeforeTraining', priority='LOWEST')]
    launch.train(cfg)


@pytest.fixture(scope='module', autouse=True)
def _stopping_hook():
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    class StopBeforeTraining(Hook):

        def before_train(self, runner):
            raise RuntimeError(TO_TRAIN)

    HOOKS.register_module(module=StopBeforeTraining)
    yield
    HOOKS.module_dict.pop('StopBeforeTraining')


def refused(tmp_path, text, message, more='', options=None, full=False):
    with pytest.raises(DataError) as caught:
        train(tmp_path, text, more, options, full)
    assert re.search(message, str(caught.value)), str(caught.value)
    return str(caught.value)


def accepted(tmp_path, text, more='', options=None):
    with pytest.raises(RuntimeError, match=TO_TRAIN):
        train(tmp_path, text, more, options)


def log(tmp_path):
    return max((tmp_path / 'work').glob('*/*.log'), key=lambda path: path.stat().st_mtime).read_text()


# --- names of classes

def set_classes(classes):
    return '\n'.join(f'{split}_dataloader["dataset"] = dict(metainfo=dict(classes={classes!r}))'
                     for split in ('train', 'val', 'test')) + '\ntest_dataloader = val_dataloader\n'


def test_another_order_than_the_files(root, tmp_path):
    change(root, lambda coco: coco['categories'].reverse())
    message = refused(tmp_path, tiny.DETECTOR, 'the train data .*another order than in .*instances_train.json')
    assert 'Config: circle, square, triangle, star, ring. File: ring, star, triangle, square, circle.' in message
    accepted(tmp_path, tiny.DETECTOR, options={
        f'{split}_dataloader.dataset.metainfo.classes': CLASSES[::-1] for split in ('train', 'val')})


def test_train_and_val_files_in_different_order(root, tmp_path):
    change(root, lambda coco: coco['categories'].reverse(), VAL)
    refused(tmp_path, tiny.DETECTOR, 'the val data.*another order than in .*instances_val.json')


def test_configs_in_different_order(root, tmp_path):
    """Each right for itself."""
    change(root, lambda coco: coco['categories'].reverse(), VAL)
    refused(tmp_path, tiny.DETECTOR, 'The train data and the val data have the same classes in another order',
            options={'val_dataloader.dataset.metainfo.classes': CLASSES[::-1]})


@pytest.mark.parametrize('classes, message', [
    (('circel', 'Square', 'triangle', 'star', 'ring'),
     r"2 of the 5 classes .* not in .*train.json: 'circel' \(nearest: 'circle'\), "
     r"'Square' \(nearest: 'square'\)\. It has "),
    (('dog', 'cat', 'cow', 'pig', 'hen'),
     "5 of the 5 classes .*: 'dog', 'cat', 'cow' and 2 more. It has circle, square"),
])
def test_names_that_the_file_lacks(classes, message, root, tmp_path):
    options = {f'{split}_dataloader.dataset.metainfo.classes': classes for split in ('train', 'val')}
    refused(tmp_path, tiny.DETECTOR, message, options=options)
    # where mm keeps no image, it ends before
    if 'dog' in classes:
        options['train_dataloader.dataset.filter_cfg.filter_empty_gt'] = True
        refused(tmp_path, tiny.DETECTOR, r'5 of the 5 classes of CocoDataset are not in', options=options)


def test_a_subset_of_the_classes(root, tmp_path):
    """In the order of the file, and through wrappers."""
    options = {f'{split}_dataloader.dataset.metainfo.classes': ('square', 'ring') for split in ('train', 'val')}
    options |= {'model.bbox_head.num_classes': 2}
    more = """
train_dataloader['dataset'] = dict(_delete_=True, type='RepeatDataset', times=2, dataset=dict(
    type='ConcatDataset', datasets=[_base_.train_dataloader.dataset, _base_.train_dataloader.dataset]))
"""
    accepted(tmp_path, tiny.DETECTOR, options=options)
    del options['train_dataloader.dataset.metainfo.classes']
    options['train_dataloader.dataset.dataset.datasets.0.metainfo.classes'] = ('square', 'ring')
    options['train_dataloader.dataset.dataset.datasets.1.metainfo.classes'] = ('square', 'ring')
    accepted(tmp_path, tiny.DETECTOR, more, options)
    options['train_dataloader.dataset.dataset.datasets.1.metainfo.classes'] = ('ring', 'square')
    options['train_dataloader.dataset.dataset.ignore_keys'] = 'classes'
    refused(tmp_path, tiny.DETECTOR, 'another order than in .*Config: ring, square. File: square, ring', more, options)


def test_classes_without_their_comma(root, tmp_path):
    for text in (tiny.DETECTOR, tiny.SEGMENTOR):
        refused(tmp_path, text, r"classes of the .* is the text 'circle'.* write \('circle', \) with the comma",
                options={'train_dataloader.dataset.metainfo.classes': 'circle'})


def test_classes_in_a_file(root, tmp_path):
    from mobileone_mm.engine.config import class_names, read_config
    (tmp_path / 'classes.txt').write_text('\n'.join(CLASSES) + '\n')
    options = {f'{split}_dataloader.dataset.metainfo.classes': str(tmp_path / 'classes.txt')
               for split in ('train', 'val', 'test')}
    accepted(tmp_path, tiny.DETECTOR, options=options)
    assert class_names(read_config(tmp_path / 'tiny.py', options)) == list(CLASSES)


def test_an_evaluator_with_another_file(root, tmp_path):
    evaluator = {'val_evaluator.ann_file': str(root / 'annotations' / TRAIN)}
    refused(tmp_path, tiny.DETECTOR, r"train.json, the ann_file of the evaluator, has 'train_0000.jpg' with the id 0, "
            "but the val data .* has 'val_0000.jpg'", options=evaluator)
    shutil.copy(root / 'annotations' / VAL, root / 'annotations' / 'other.json')
    change(root, lambda coco: coco['categories'].reverse(), 'other.json')
    refused(tmp_path, tiny.DETECTOR, 'another order than in .*other.json', options={
        'val_evaluator.ann_file': str(root / 'annotations' / 'other.json')})


def test_a_checkpoint_with_the_classes_in_another_order(tiny_detector, root, tmp_path):
    config, checkpoint = tiny_detector
    change(root, lambda coco: coco['categories'].reverse(), VAL)
    cfg = prepare_test(config, checkpoint, work_dir=str(tmp_path / 'work'),
                       cfg_options={'test_dataloader.dataset.metainfo.classes': CLASSES[::-1]})
    with pytest.raises(DataError, match='The checkpoint and the test data have the same classes in another order'):
        launch.test(cfg)


def test_names_that_no_dataset_of_mmseg_has(root, tmp_path):
    refused(tmp_path, tiny.SEGMENTOR, r"1 of the 3 classes of \w+ are not in its METAINFO: 'aeroplan' \(nearest: 'aero",
            options={'train_dataloader.dataset.type': 'PascalVOCDataset',
                     'train_dataloader.dataset.metainfo': dict(classes=('background', 'aeroplan', 'car'))})


def test_folders_of_a_classifier():
    from mobileone_mm.datasets.classes import check_folders
    check_folders(['cat', 'dog'], ['cat', 'dog'], 'the train data')
    check_folders(['tench', 'goldfish'], ['n01440764', 'n01443537'], 'the train data')
    with pytest.raises(DataError, match='another order than in its folders, sorted.* Config: dog, cat. File: cat, dog'):
        check_folders(['dog', 'cat'], ['cat', 'dog'], 'the train data')
    with pytest.raises(DataError, match=r"'dogs' \(nearest: 'dog'\)"):
        check_folders(['cat', 'dogs'], ['cat', 'dog'], 'the train data')


def test_categories_are_found_wherever_they_stand(tmp_path):
    categories = [dict(id=1, name='\u00e9toile'), dict(id=2, name='ring')]
    filler = [dict(id=i, file_name='x' * 50, attributes=dict(categories=['a', 'b'])) for i in range(30_000)]
    path = tmp_path / 'coco.json'
    for content in (dict(categories=categories, images=filler), dict(images=filler, categories=categories),
                    dict(info=dict(categories=categories[:1]), categories=categories, images=[])):
        for options in (dict(), dict(ensure_ascii=False, indent=1)):
            path.write_text(json.dumps(content, **options), encoding='utf-8')
            assert read_categories(str(path)) == categories
    path.write_text('{"images": []}')
    with pytest.raises(DataError, match="it has no 'categories' that is a list. Its keys are images"):
        read_categories(str(path))


# --- entries of COCO files

def without(part, key, index=2):
    def function(coco):
        del coco[part][index][key]
    return function


def everywhere(part, key):
    def function(coco):
        for entry in coco[part]:
            del entry[key]
    return function


@pytest.mark.parametrize('function, file, message', [
    (without('annotations', 'area'), TRAIN,
     r'instances_train.json: annotations\[2\] \(id 3\) has no area. Write the numbe'),
    (everywhere('annotations', 'area'), VAL, r'instances_val.json: annotations\[0\] \(id 1\) has no area'),
    (everywhere('annotations', 'id'), TRAIN, r'train.json: annotations\[0\] has no id. Number the entries'),
    (without('annotations', 'bbox'), VAL, r'val.json: annotations\[2\] \(id 3\) has no bbox'),
    (without('images', 'width'), TRAIN, r'train.json: images\[2\] \(id 2\) has no width'),
    (lambda coco: coco['images'][1].update(height=None), VAL, r'val.json: images\[1\] \(id 1\) has height=None'),
    (lambda coco: coco['annotations'][1].update(bbox=[]), TRAIN, r'annotations\[1\] \(id 2\) has bbox=\[\]'),
    (lambda coco: coco['annotations'][1].update(id=1), TRAIN, r'annotations\[1\] has the id 1, which an earlier one'),
    (lambda coco: coco['images'][1].update(id=0), TRAIN, r'images\[1\] has the id 0, which an earlier one has'),
    (without('categories', 'name'), TRAIN, r'train.json: categories\[2\] \(id 3\) has no name'),
    (lambda coco: coco.pop('categories'), TRAIN,
     "no 'categories' that is a list. Its keys are info, images, annotations"),
], ids=lambda value: value if isinstance(value, str) and value.endswith('.json') else '')
def test_entries_that_other_tools_leave_out(function, file, message, root, tmp_path):
    change(root, function, file)
    refused(tmp_path, tiny.DETECTOR, message)


def test_entries_of_large_files_are_said_where_mm_ends(root, tmp_path):
    change(root, everywhere('annotations', 'area'), TRAIN)
    refused(tmp_path, tiny.DETECTOR, r'train.json: annotations\[0\] \(id 1\) has no area', options={
        'default_hooks.coco_fit.max_megabytes': 0})


def test_annotations_of_no_image_are_a_warning(root, tmp_path):
    change(root, lambda coco: coco['annotations'][1].update(image_id='0'), TRAIN)
    accepted(tmp_path, tiny.DETECTOR)
    assert re.search(r"WARNING - .*annotations\[1\] \(id 2\) has image_id '0', which none of the 16 images has: there "
                     r'it is 0, of another type. mm leaves such annotations out, here 1 of \d+', log(tmp_path))


def test_files_of_the_test_data_are_a_warning_in_training(root, tmp_path):
    options = {'test_dataloader.dataset.ann_file': 'annotations/test.json'}
    for function, message in ((everywhere('annotations', 'area'), r'test.json: annotations\[0\] \(id 1\) has no area'),
                              (lambda coco: coco['categories'].reverse(), 'the test data stand in another order')):
        shutil.copy(root / 'annotations' / VAL, root / 'annotations' / 'test.json')
        change(root, function, 'test.json')
        accepted(tmp_path, tiny.DETECTOR, options=options)
        assert re.search(f'WARNING - Testing with this config will end in an error: .*{message}', log(tmp_path))


def test_entries_of_a_test_set_without_truth():
    images = [dict(id=1, file_name='a.jpg', width=3, height=4)]
    check_entries(dict(images=images, categories=[dict(id=1, name='a')]), 'test.json')


# --- nothing to learn

def test_boxes_that_are_all_ignored(root, tmp_path):
    change(root, lambda coco: [annotation.update(iscrowd=1) for annotation in coco['annotations']], TRAIN)
    message = refused(tmp_path, tiny.DETECTOR, r'All \d+ boxes in 16 images are iscrowd=1, which mm ignores')
    assert message.endswith('To go on anyway: --cfg-options default_hooks.coco_fit=None.')
    accepted(tmp_path, tiny.DETECTOR, options={'default_hooks.coco_fit': None})


def test_boxes_of_other_images(root, tmp_path):
    change(root, lambda coco: [entry.update(image_id=str(entry['image_id'])) for entry in coco['annotations']], TRAIN)
    refused(tmp_path, tiny.DETECTOR, 'None of the 16 images has a box that mm keeps', options={
        'train_dataloader.dataset.filter_cfg': None})
    refused(tmp_path, tiny.DETECTOR, 'No images are left')


# --- sizes of images

def turn(root, name, orientation, size=(96, 64)):
    """Cut an image to (width, height) as stored, and give it an EXIF tag."""
    path = root / 'JPEGImages' / f'{name}.jpg'
    image = Image.open(path).convert('RGB').crop((0, 0, *size))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def resize(*sizes):
    def function(coco):
        for image, (width, height) in zip(coco['images'][3:], sizes, strict=False):
            image.update(width=width, height=height)
    return function


def test_images_turned_by_exif(root, tmp_path):
    turn(root, 'train_0003', 6)
    change(root, resize((96, 64)), TRAIN)
    message = refused(tmp_path, tiny.DETECTOR,
                      r'train_0003.jpg is loaded as 64x96 .* the train data .* say 96x64: its EXIF')
    assert "color_type='color_ignore_orientation'" in message
    assert 'Looked at the sizes of 16 of 16 images' in message and '1 have an EXIF tag' in message
    ignore = {'train_dataloader.dataset.pipeline.0.color_type': 'color_ignore_orientation'}
    for backend in ('cv2', 'pillow'):
        accepted(tmp_path, tiny.DETECTOR, options=ignore | {
            'train_dataloader.dataset.pipeline.0.imdecode_backend': backend})
    change(root, resize((64, 96)), TRAIN)  # the boxes drawn on the image as it is shown
    accepted(tmp_path, tiny.DETECTOR)
    refused(tmp_path, tiny.DETECTOR, 'loaded as 96x64 .* say 64x96: .* Leave color_type out', options=ignore)


def test_sizes_that_are_simply_wrong(root, tmp_path):
    change(root, resize((640, 480)), VAL)
    refused(tmp_path, tiny.DETECTOR,
            r'val_0003.jpg is loaded as 96x96 .* the val data .* say 640x480. Correct width and')


def test_turned_by_half(root, tmp_path):
    turn(root, 'train_0003', 3, (96, 96))
    accepted(tmp_path, tiny.DETECTOR)
    assert re.search('WARNING - 1 of these, '
                     'train_0003.jpg for one, are turned or mirrored by their EXIF tag', log(tmp_path))


# --- masks

def masks(root, function, names='*'):
    for path in (root / 'SegmentationClass').glob(f'{names}.png'):
        function(np.array(Image.open(path)), path)


def save(mask, path, mode='L'):
    Image.fromarray(mask.astype(np.uint8), mode).save(path)


@pytest.mark.parametrize('function, names, message', [
    (lambda mask, path: save(mask + 1, path), 'train*',
     r'train_\d+.png of the train data .* has the labels 6, '
     r'but 6 classes have labels 0 to 5, and 255 .*reduce_zero_label'),
    (lambda mask, path: save(np.stack([mask] * 3, -1), path, 'RGB'), 'val*',
     r'val_0000.png of the val data .* has the shape \(96, 96, 3\), so it is a mask of colours'),
    (lambda mask, path: save(mask * 40, path), 'train*', r'has the labels (40|160).*Write the indices of the classes'),
    (lambda mask, path: save((mask > 0) * 255, path), 'train*',
     'Looked at 16 of 16 masks .* no values but 0, 255, and 255 is ignored, so label 0 alone would be learned'),
    (lambda mask, path: save(mask * 0 + 255, path), 'train*', 'no values but 255, .* so nothing would be learned'),
    (lambda mask, path: Image.fromarray(mask.astype(np.uint16) + 256).save(path), 'train*',
     'values from 256 to 26., of which mmseg keeps the lowest eight bits'),
    (lambda mask, path: save(mask[::2, ::2], path), 'train_0000',
     'train_0000.png has 48x48 pixels .*train_0000.jpg is loaded with 96x96. Save them in the same size'),
], ids=['1 to N', 'RGB', 'others', '0 and 255', '255', '16 bits', 'half'])
def test_masks_that_do_not_fit(function, names, message, root, tmp_path):
    masks(root, function, names)
    refused(tmp_path, tiny.SEGMENTOR, message)


def test_masks_from_1_with_reduce_zero_label(root, tmp_path):
    masks(root, lambda mask, path: save(mask + 1, path))
    accepted(tmp_path, tiny.SEGMENTOR, options={
        f'{split}_dataloader.dataset.reduce_zero_label': True for split in ('train', 'val')})


def test_images_turned_by_exif_beside_masks(root, tmp_path):
    turn(root, 'train_0003', 6)
    masks(root, lambda mask, path: save(mask[:64], path), 'train_0003')
    refused(tmp_path, tiny.SEGMENTOR, "train_0003.png has 96x64 .* is loaded with 64x96: the image's EXIF tag turns it")


def test_masks_of_one_label_are_a_warning(root, tmp_path):
    masks(root, lambda mask, path: save(mask * 0, path))
    accepted(tmp_path, tiny.SEGMENTOR)
    assert re.search(r'WARNING - Looked at 16 of 16 masks of the train data .* '
                     r'all are label 0 \(backgro', log(tmp_path))


@pytest.mark.parametrize('mask', ['label 6', 'colours'])
def test_masks_outside_of_the_sample(mask, root, tmp_path, monkeypatch):
    """They end at their batch, in training and in testing."""
    monkeypatch.setattr('mobileone_mm.datasets.masks.LIMIT', 2)
    monkeypatch.setattr('mobileone_mm.datasets.masks._MORE', 2)
    if mask == 'colours':
        masks(root, lambda mask, path: save(np.stack([mask] * 3, -1), path, 'RGB'), 'val_0003')
        message = r'val_0003.png of the val data has the shape \(\d+, \d+, 3\)'
    else:
        masks(root, lambda mask, path: save(mask * 0 + 6, path), 'val_0003')
        message = r'val_0003.png of the val data has the labels 6, but 6 classes'
    options = {'val_dataloader.dataset.ann_file': 'ImageSets/Segmentation/val.txt'}
    runner_of(tmp_path, options, message, 'val')
    shutil.copy(root / 'ImageSets/Segmentation/val.txt', root / 'ImageSets/Segmentation/train.txt')
    runner_of(tmp_path, options, message.replace('val data', 'train data'), 'train')


def runner_of(tmp_path, options, message, loop):
    config = tiny.write_config(tmp_path, tiny.SEGMENTOR)
    cfg = prepare_train(config, work_dir=str(tmp_path / 'work'), cfg_options=options)
    cfg.experiment_name = f'{tmp_path.name}_{next(_NUMBERS)}'
    runner = launch.build_runner(cfg)
    assert isinstance(runner, Runner)
    with pytest.raises(DataError, match=message):
        runner.train() if loop == 'train' else runner.val()


# --- through the tools

def test_the_tools_end_in_one_line(tiny_segmentor, root, tmp_path):
    """Testing, where a surplus label was left out of the metric."""
    masks(root, lambda mask, path: save(mask + 1, path), 'val*')
    result = python('tools/test.py', *tiny_segmentor, '--work-dir', tmp_path / 'work', check=False, SHAPES_ROOT=root)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert re.search(r'Error: .*val_\d+.png of the test data .* has the labels 6, but 6 classes', result.stderr)


def test_iscrowd_is_taken_as_0(root, tmp_path):
    """In training by mmdet, and in COCO's evaluation, which ended in a KeyError after the first epoch."""
    change(root, everywhere('annotations', 'iscrowd'))
    config = tiny.write_config(tmp_path, tiny.DETECTOR)
    result = python('tools/train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options',
                    'train_cfg.max_epochs=1', SHAPES_ROOT=root)
    assert re.search(r'val.json: (\d+) of \1 annotations have no iscrowd. It is taken as 0', result.stdout)


# --- pipelines

@pytest.mark.parametrize('text', [tiny.DETECTOR, tiny.SEGMENTOR], ids=['detector', 'segmentor'])
def test_a_flip_where_predictions_are_evaluated(text, root, tmp_path):
    """The pipeline of training, copied: a perfect model had 28 mIoU, or 0 mAP."""
    from mobileone_mm.utils.errors import ConfigError
    config = tiny.write_config(tmp_path, text, """
val_dataloader['dataset'] = dict(pipeline=_base_.train_dataloader.dataset.pipeline)
test_dataloader['dataset'] = dict(pipeline=_base_.train_dataloader.dataset.pipeline)
""")
    (tmp_path / 'any.pth').touch()
    with pytest.raises(ConfigError, match=r'in val_dataloader flips images: RandomFlip with prob=\[0.25, 0.25\]'):
        prepare_train(config, work_dir=str(tmp_path / 'work'))
    with pytest.raises(ConfigError, match='in test_dataloader flips images.*Remove it .* test with --tta'):
        prepare_test(config, tmp_path / 'any.pth', work_dir=str(tmp_path / 'work'))
    prepare_test(config, tmp_path / 'any.pth', work_dir=str(tmp_path / 'work'), tta=True)


def test_flips_that_leave_the_truth_alone():
    from mobileone_mm.datasets.pipelines import check_flips
    flip, load = dict(type='RandomFlip', prob=0.5), dict(type='LoadAnnotations')
    for pipeline in ([flip, load], [load, dict(flip, prob=0.)], [load, dict(type='TestTimeAug', transforms=[[flip]])]):
        check_flips(Config(dict(default_scope='mmseg', val_dataloader=dict(dataset=dict(pipeline=pipeline)))), 'val')


# --- several datasets under one metric

def two_parts(second):
    return f"""
part = dict(_base_.val_dataloader.dataset)
val_dataloader['dataset'] = dict(_delete_=True, type='ConcatDataset', datasets=[part, dict(part, ann_file={second!r})])
"""


def test_parts_with_the_same_ids(root, tmp_path):
    """The score was a tenth of the true one, or a trace ended the validation."""
    shutil.copy(root / 'annotations' / VAL, root / 'annotations' / 'other.json')
    more = two_parts('annotations/other.json')
    refused(tmp_path, tiny.DETECTOR, 'instances_val.json.* and the val data .*other.json.* both have an image with the '
            'id 0, .* Merge the annotation files into one', more)
    change(root, lambda coco: [image.update(id=image['id'] + 100) for image in coco['images']], 'other.json')
    refused(tmp_path, tiny.DETECTOR, 'val.json, the ann_file of the evaluator, has no image with the id 100, but the '
            'val data .*other.json.* Merge', more)


def test_parts_of_one_file(root, tmp_path):
    for part, name in ((slice(0, 4), 'first.json'), (slice(4, None), 'second.json')):
        shutil.copy(root / 'annotations' / VAL, root / 'annotations' / name)
        change(root, lambda coco, part=part: coco.update(images=coco['images'][part]), name)
    accepted(tmp_path, tiny.DETECTOR, two_parts('annotations/second.json'), {
        'val_dataloader.dataset.datasets.0.ann_file': 'annotations/first.json'})


def test_boxes_by_two_corners_are_a_warning(root, tmp_path):
    def corners(coco):
        for entry in coco['annotations']:
            x, y, width, height = entry['bbox']
            entry['bbox'] = [x, y, x + width, y + height]
    accepted(tmp_path, tiny.DETECTOR)
    assert 'boxes reach beyond' not in log(tmp_path)
    change(root, corners)
    accepted(tmp_path, tiny.DETECTOR)
    for name in (TRAIN, VAL):
        assert re.search(rf'WARNING - .*{name}: \d+ of \d+ boxes reach beyond .* bbox is \[x, y, width, height\]',
                         log(tmp_path))


# --- masks and their images, once more

@pytest.mark.parametrize('orientation', [3, 6])
def test_square_images_turned_by_exif_beside_masks(orientation, root, tmp_path):
    turn(root, 'train_0003', orientation, (96, 96))
    accepted(tmp_path, tiny.SEGMENTOR)
    assert re.search('WARNING - Looked at 16 of 16 masks of the train data.*: 1 of their images, .*train_0003.jpg for '
                     "one, are turned .* color_type='color_ignore_orientation'", log(tmp_path))
    (tmp_path / 'again').mkdir()
    accepted(tmp_path / 'again', tiny.SEGMENTOR, options={
        'train_dataloader.dataset.pipeline.0.color_type': 'color_ignore_orientation'})
    assert 'by their EXIF tag' not in log(tmp_path / 'again')


@pytest.mark.parametrize('sample', [32, 2])
def test_a_label_of_16_bits(sample, root, tmp_path, monkeypatch):
    """It was said to be 232; also outside of the sample."""
    monkeypatch.setattr('mobileone_mm.datasets.masks.LIMIT', sample)
    monkeypatch.setattr('mobileone_mm.datasets.masks._MORE', sample)
    masks(root, lambda mask, path: Image.fromarray(np.full(mask.shape, 1000, np.uint16)).save(path), 'val_0003')
    message = r'val_0003.png has values from 1000 to 1000, of which mmseg keeps the lowest eight bits'
    runner_of(tmp_path, None, message, 'val')


# --- segmentors' settings, and checkpoints to start from

def test_reduce_zero_label_of_one_split(root, tmp_path, tiny_segmentor):
    masks(root, lambda mask, path: save(mask + (mask == 0), path))
    refused(tmp_path, tiny.SEGMENTOR, 'train data has reduce_zero_label=True and the val data reduce_zero_label=False',
            options={'train_dataloader.dataset.reduce_zero_label': True})
    cfg = prepare_test(*tiny_segmentor, work_dir=str(tmp_path / 'work'),
                       cfg_options={'test_dataloader.dataset.reduce_zero_label': True})
    with pytest.raises(DataError, match='reduce_zero_label=False and the test data reduce_zero_label=True'):
        launch.test(cfg)


def test_a_palette_of_more_classes(root, tmp_path):
    options = {'train_dataloader.dataset.metainfo': dict(classes=('background', 'circle'), palette=[[0, 0, 0]] * 6)}
    refused(tmp_path, tiny.SEGMENTOR, '2 classes and a palette of 6 colours. Write a palette', options=options)


def test_a_checkpoint_to_go_on_from_with_the_classes_in_another_order(tiny_detector, root, tmp_path):
    config, checkpoint = tiny_detector
    change(root, lambda coco: coco['categories'].reverse())
    options = {f'{split}_dataloader.dataset.metainfo.classes': CLASSES[::-1] for split in ('train', 'val')}
    options |= {'custom_hooks': [dict(type='StopBeforeTraining', priority='LOWEST')]}
    message = 'The checkpoint and the train data have the same classes in another order.*: circle.*: ring'
    for more, error in ((dict(resume=checkpoint), message), (dict(), TO_TRAIN)):
        cfg = prepare_train(config, work_dir=str(tmp_path / 'work'), cfg_options=options, **more)
        cfg.load_from = str(checkpoint)
        cfg.experiment_name = f'{tmp_path.name}_{next(_NUMBERS)}'
        with pytest.raises((DataError, RuntimeError), match=error):
            launch.train(cfg)
    assert re.search(f'WARNING - {message}', log(tmp_path))


# --- VOC's XML files

def as_xml(root):
    """The COCO file of the train data as one XML per image, with a list; returns a dataset's config for it."""
    content = json.loads((root / 'annotations' / TRAIN).read_text())
    names = {each['id']: each['name'] for each in content['categories']}
    folder = root / 'Annotations'
    folder.mkdir()
    for image in content['images']:
        objects = ''
        for each in content['annotations']:
            if each['image_id'] == image['id']:
                x, y, w, h = each['bbox']
                sides = dict(xmin=x + 1, ymin=y + 1, xmax=x + w + 1, ymax=y + h + 1)
                box = ''.join(f'<{side}>{value:.0f}</{side}>' for side, value in sides.items())
                objects += f'<object><name>{names[each["category_id"]]}</name><bndbox>{box}</bndbox></object>'
        size = f'<size><width>{image["width"]}</width><height>{image["height"]}</height><depth>3</depth></size>'
        (folder / f'{Path(image["file_name"]).stem}.xml').write_text(f'<annotation>{size}{objects}</annotation>')
    (root / 'train.txt').write_text('\n'.join(sorted(path.stem for path in folder.iterdir())))
    return (f"\ntrain_dataloader['dataset'] = dict(_delete_=True, type='XMLDataset', data_root=r'{root}', "
            "ann_file='train.txt', data_prefix=dict(sub_data_root=''), pipeline=_base_.train_pipeline, "
            "metainfo=dict(classes=CLASSES))\n")


def test_xml_files_without_a_class_of_the_config_and_turned_images(root, tmp_path):
    dataset = as_xml(root)
    names = "('circle', 'square', 'triangle', 'star', 'ring')"
    accepted(tmp_path, tiny.DETECTOR + dataset.replace('CLASSES', names))
    refused(tmp_path, tiny.DETECTOR + dataset.replace('CLASSES', "('a', 'b', 'c', 'd', 'e')"),
            r'the train data .*: None of the .* images has a box that mm keeps')
    turn(root, 'train_0003', 6)
    refused(tmp_path, tiny.DETECTOR + dataset.replace('CLASSES', names),
            'train_0003.jpg is loaded as 64x96 .*say 96x96')
