"""Test-time augmentation leaves the truth as it is: a model that answers with the truth keeps its full score."""
import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mobileone_mm.apis.launch import build_runner
from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.utils.errors import ConfigError
from tests.support import perfect
from tests.support.paths import ROOT
from tests.support.runs import logged, python

COMMON = """
custom_imports = dict(imports=['tests.support.perfect'])
test_dataloader = dict(batch_size={batch}, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
                       dataset={dataset})
test_cfg = dict()
test_evaluator = {evaluator}
default_hooks = dict(checkpoint_fit=None)
"""
LOAD = "dict(type='LoadImageFromFile')"
SEG_ANN, DET_ANN = "dict(type='LoadAnnotations')", "dict(type='LoadAnnotations', with_bbox=True)"
SEG = "default_scope = 'mmseg'\n" \
      "model = dict(type='PerfectSegmentor', num_classes={classes}, **{model}, _scope_='mmengine')\n"
# Two sizes of the input, one twice the other: pixels of the one are whole pixels of the other.
TWICE = "dict(type='Resize', scale_factor=2.0, keep_ratio=True)"
META = "meta_keys=('ori_shape', 'img_shape', 'scale_factor')"


def seg_set(root, kind='BaseSegDataset', classes="('z', 'a', 'b', 'c')", masks='masks', pipeline=(), more=''):
    pipeline = ', '.join(pipeline or (LOAD, TWICE, SEG_ANN, "dict(type='PackSegInputs')"))
    meta = f'metainfo=dict(classes={classes}), ' if classes else ''
    prefix = f"dict(img_path='images', seg_map_path='{masks}')"
    return (f"dict(type='{kind}', data_root=r'{root}', data_prefix={prefix}, img_suffix='.png', seg_map_suffix='.png', "
            f"{meta}{more}pipeline=[{pipeline}])")


def seg_config(dataset, classes=4, model='{}', batch=1):
    return SEG.format(classes=classes, model=model) + COMMON.format(
        batch=batch, dataset=dataset, evaluator="dict(type='IoUMetric', iou_metrics=['mIoU'])")


def det_config(dataset, evaluator):
    return "default_scope = 'mmdet'\nmodel = dict(type='PerfectDetector', _scope_='mmengine')\n" + COMMON.format(
        batch=1, dataset=dataset, evaluator=evaluator)


def coco_set(root, pipeline=(), more=''):
    pipeline = ', '.join(pipeline or (LOAD, TWICE, DET_ANN, "dict(type='PackDetInputs')"))
    return (f"dict(type='CocoDataset', data_root=r'{root}', ann_file='boxes.json', data_prefix=dict(img='images/'), "
            f"metainfo=dict(classes=('a', 'b', 'c')), test_mode=True, {more}pipeline=[{pipeline}])")


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('perfect')
    perfect.draw(folder)
    return folder


def write(folder, text, more=''):
    """A config and a checkpoint of its model."""
    (folder / 'config.py').write_text(text + more)
    cfg = Config.fromfile(folder / 'config.py')
    init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), folder / 'perfect.pth')
    return folder / 'config.py', folder / 'perfect.pth'


def metrics(folder, text, tta, more='', **options):
    """What tools/test.py would log, in this process."""
    cfg = prepare_test(*write(folder, text, more), work_dir=str(folder / 'work'), tta=tta, **options)
    cfg.experiment_name = f'{folder.name}{tta}'
    return build_runner(cfg).test()


def segmentors(root):
    """Configs whose perfect model has to score 100."""
    pack = "dict(type='PackSegInputs')"
    repeated = f"dict(type='RepeatDataset', times=2, dataset={seg_set(root)})"
    return {
        'plain': seg_config(seg_set(root)),
        'voc': seg_config(seg_set(root, 'PascalVOCDataset', '', more="ann_file='list.txt', "), classes=21),
        'zero ignored': seg_config(seg_set(root, classes="('a', 'b', 'c')", pipeline=(
            LOAD, TWICE, "dict(type='LoadAnnotations', reduce_zero_label=True)", pack),
            more='reduce_zero_label=True, '), classes=3, model='dict(first=1)'),
        'annotations first': seg_config(seg_set(root, pipeline=(SEG_ANN, LOAD, pack))),
        'annotations second': seg_config(seg_set(root, pipeline=(LOAD, SEG_ANN, pack))),
        'own keys': seg_config(seg_set(root, pipeline=(
            LOAD, TWICE, SEG_ANN, f"dict(type='PackSegInputs', {META})"))),
        'keep_ratio, twice': seg_config(seg_set(root, pipeline=(
            LOAD, "dict(type='Resize', scale=(160, 120), keep_ratio=True)", TWICE, SEG_ANN, pack))),
        'a flip of its own': seg_config(seg_set(root, pipeline=(
            LOAD, "dict(type='RandomFlip', prob=0.)", SEG_ANN, pack))),
        'concatenated': seg_config(f"dict(type='ConcatDataset', datasets=[{seg_set(root)}, {repeated}])"),
    }


@pytest.mark.parametrize('kind', list(segmentors('')))
def test_segmentors(kind, root, tmp_path):
    for tta in (False, True):
        got = metrics(tmp_path, segmentors(root)[kind], tta)
        assert got['mIoU'] == 100 or (kind == 'voc' and got['aAcc'] == 100), tta


def test_one_output_channel(root, tmp_path):
    """mmseg's own model for this takes the sigmoid twice, and finds foreground everywhere."""
    dataset = seg_set(root, classes="('z', 'a')", masks='binary')
    text = seg_config(dataset, classes=2, model='dict(out_channels=1)')
    for i, more in enumerate(('', "tta_model = dict(type='SegTTAModel')\n")):
        (tmp_path / str(i)).mkdir()
        assert metrics(tmp_path / str(i), text, True, more)['mIoU'] == 100


def test_the_configs_own_pipeline(root, tmp_path):
    """Of our VOC and ADE20K configs, with scales that blur edges: a mirrored truth gives less than half."""
    base = Config.fromfile(ROOT / 'configs/segmentation/_base_/crop512.py')
    more = f'tta_model = {base.tta_model.to_dict()}\ntta_pipeline = {base.tta_pipeline!r}\n'
    assert metrics(tmp_path, seg_config(seg_set(root)), True, more)['mIoU'] > 90


def test_a_pipeline_that_mirrors_the_truth_is_refused(root, tmp_path):
    flips = "[dict(type='RandomFlip', prob=p) for p in {}]"
    more = f"tta_pipeline = [{LOAD}, {SEG_ANN}, dict(type='TestTimeAug', transforms=[{flips}, " \
           "[dict(type='PackSegInputs')]])]\n"
    with pytest.raises(ConfigError, match=r"mirrored truth. Put dict\(type='LoadAnnotations'\) behind RandomFlip"):
        metrics(tmp_path, seg_config(seg_set(root)), True, more.format('(1., 0.)'))
    with pytest.raises(ConfigError, match='mirrored truth'):  # mmdet's metric for VOC takes its truth from there too
        metrics(tmp_path, detectors(root)['voc'][0], True,
                more.format('(1., 0.)').replace(SEG_ANN, DET_ANN).replace('PackSeg', 'PackDet'))
    (tmp_path / 'right').mkdir()
    assert metrics(tmp_path / 'right', seg_config(seg_set(root)), True, more.format('(0., 1.)'))['mIoU'] == 100


def test_what_the_tool_cannot_flip(root, tmp_path):
    """A dataset without a pipeline is an error, and one that gives views already stays as it is."""
    views = f"[{LOAD}, dict(type='TestTimeAug', transforms=[[dict(type='RandomFlip', prob=p) for p in (1., 0.)], " \
            f"[{SEG_ANN}], [dict(type='PackSegInputs')]])]"
    more = "test_dataloader['dataset'].update(pipeline={})\n"
    with pytest.raises(ConfigError, match='--tta needs a pipeline in test_dataloader.dataset, and BaseSegDataset has'):
        metrics(tmp_path, seg_config(seg_set(root)), True, more.format('[]'))
    config, checkpoint = write(tmp_path, seg_config(seg_set(root)), more.format(views))
    cfg = prepare_test(config, checkpoint, work_dir=str(tmp_path / 'work'), tta=True)
    assert cfg.test_dataloader.dataset.pipeline == Config.fromfile(config).test_dataloader.dataset.pipeline


def detectors(root):
    coco = f"dict(type='CocoMetric', ann_file=r'{root / 'boxes.json'}', metric='bbox')"
    pad, pack = "dict(type='Pad', size=(160, 160), pad_val=dict(img=(0, 0, 0)))", "dict(type='PackDetInputs')"
    voc = (f"dict(type='XMLDataset', data_root=r'{root}', ann_file='list.txt', img_subdir='JPEGImages', "
           "data_prefix=dict(sub_data_root=''), metainfo=dict(classes=('a', 'b', 'c')), test_mode=True, "
           f"pipeline=[{LOAD}, {TWICE}, {DET_ANN}, {pack}])")
    keys = "dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))"
    several = (f"dict(type='ConcatDataset', datasets=[{coco_set(root, more='indices=[0, 1], ')}, "
               f"{coco_set(root, (LOAD, TWICE, DET_ANN, keys), 'indices=[2, 3], ')}])")
    return {
        'coco': (det_config(coco_set(root), coco), 'coco/bbox_mAP', 1),
        'annotations second, padded': (det_config(coco_set(root, (LOAD, DET_ANN, TWICE, pad, keys)), coco),
                                       'coco/bbox_mAP', 1),
        'voc': (det_config(voc, "dict(type='VOCMetric', metric='mAP', eval_mode='11points')"), 'pascal_voc/mAP', 1),
        'concatenated': (det_config(several, coco), 'coco/bbox_mAP', 1),
    }


@pytest.mark.parametrize('kind', ['coco', 'annotations second, padded', 'voc', 'concatenated'])
def test_detectors(kind, root, tmp_path):
    text, key, expected = detectors(root)[kind]
    for tta in (False, True):
        assert metrics(tmp_path, text, tta)[key] == pytest.approx(expected), tta


def test_classifiers(root, tmp_path):
    pytest.importorskip('mobileone_mm.tasks.pretraining')
    pipeline = (f"[{LOAD}, dict(type='ResizeEdge', scale=64), dict(type='CenterCrop', crop_size=64), "
                "dict(type='PackInputs')]")
    dataset = (f"dict(type='CustomDataset', data_root=r'{root}', ann_file='labels.txt', data_prefix='halves', "
               f"metainfo=dict(classes=('z', 'a', 'b', 'c')), pipeline={pipeline})")
    text = "default_scope = 'mmpretrain'\nmodel = dict(type='PerfectClassifier', _scope_='mmengine')\n" + COMMON.format(
        batch=2, dataset=dataset, evaluator="dict(type='Accuracy', topk=(1, ))")
    for tta in (False, True):
        assert metrics(tmp_path, text, tta)['accuracy/top1'] == 100


def test_the_tool(root, tmp_path):
    """As users run it; the masks keep ADE20K's numbering, and so they do without the augmentation."""
    config, checkpoint = write(tmp_path, segmentors(root)['zero ignored'])
    python('tools/test.py', config, checkpoint, '--tta', '--out', tmp_path / 'masks', '--work-dir', tmp_path / 'work')
    assert logged(tmp_path / 'work', 'mIoU')['mIoU'] == 100
    for i in range(2):
        got, truth = (cv2.imread(str(folder / f'{i}.png'), 0) for folder in (tmp_path / 'masks', root / 'masks'))
        assert np.array_equal(got[truth > 0], truth[truth > 0])


PURE = """
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import DefaultSampler
from mmseg.datasets import BaseSegDataset, LoadAnnotations, PackSegInputs
from mmseg.evaluation import IoUMetric
from mmseg.models import SegTTAModel

from tests.support.perfect import PerfectSegmentor

default_scope = 'mmseg'
model = dict(type=PerfectSegmentor, num_classes=4)
tta_model = dict(type=SegTTAModel)
test_dataloader = dict(
    num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=BaseSegDataset, data_root=r'{root}', data_prefix=dict(img_path='images', seg_map_path='masks'),
        img_suffix='.png', seg_map_suffix='.png', metainfo=dict(classes=('z', 'a', 'b', 'c')),
        pipeline=[dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)]))
test_cfg = dict()
test_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
"""


def test_types_as_classes(root, tmp_path):
    """A pure Python config."""
    for tta in (False, True):
        assert metrics(tmp_path, PURE.format(root=root), tta)['mIoU'] == 100, tta
