"""Exported detectors keep the boxes that mmdet keeps: thresholds before score factors, per level, sizes at last."""
import pickle

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mobileone_mm.apis.predict import build_inferencer
from mobileone_mm.datasets.images import read_image
from mobileone_mm.deploy.export import example_image, export, share_of_boxes
from mobileone_mm.deploy.reader import ExportedFile
from mobileone_mm.deploy.wrappers.detector import DeployableDetector
from mobileone_mm.engine.config import read_config
from mobileone_mm.utils.errors import ConfigError
from tests.support import heads, tiny
from tests.support.formats import PHONES, require
from tests.support.reference import randomize
from tests.support.runs import cfg_options, python

# Half of all candidates are above the threshold, and more than nms_pre; of FCOS's and ATSS's products none is.
TEST_CFG = dict(score_thr=0.5, nms_pre=40, min_bbox_size=0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=50)
SOFTMAX = dict(ssdlite=dict(score_thr=0.15))
SIZE = (160, 192)
RESIZE = f"""
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale={SIZE[::-1]}, keep_ratio=False),
            dict(type='PackDetInputs')]
test_dataloader.update(dataset=dict(pipeline=pipeline))
"""


def make(folder, head, **test_cfg):
    """Config and checkpoint of a detector with random weights."""
    test_cfg = TEST_CFG | SOFTMAX.get(head, {}) | test_cfg
    config = tiny.write_config(folder, tiny.DETECTOR, heads.lines(head, 5, **test_cfg) + RESIZE)
    cfg = Config.fromfile(config)
    cfg.model.backbone.init_cfg = None
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = randomize(MODELS.build(cfg.model))
    for name, module in model.bbox_head.named_modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.weight, std=0.1)
            module.bias.data.fill_(1 if 'reg' in name else 0)
    torch.save(dict(state_dict=model.state_dict()), folder / 'random.pth')
    return config, folder / 'random.pth'


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Of other sizes than the network's."""
    folder = tmp_path_factory.mktemp('images')
    for i, size in enumerate([(120, 200), (233, 157)]):
        image = example_image(size)[0].permute(1, 2, 0).numpy() + np.random.default_rng(i).normal(0, 30, (*size, 3))
        cv2.imwrite(str(folder / f'{i}.png'), image.clip(0, 255).astype(np.uint8))
    return folder


def predicted(config, checkpoint, folder, **options):
    """By the inferencer of tools/predict.py."""
    inferencer = build_inferencer(read_config(config, options), checkpoint, 'cpu', cfg_options=options)
    found = [inferencer(str(file), return_datasamples=True)['predictions'][0].pred_instances
             for file in sorted(folder.iterdir())]
    return [dict(boxes=each.bboxes.numpy()[None], scores=each.scores.numpy()[None], labels=each.labels.numpy()[None])
            for each in found]


def assert_same_boxes(expected, got, at_least=5):
    for a, b in zip(expected, got, strict=True):
        assert a['labels'].size == b['labels'].size >= at_least
        assert share_of_boxes(a, b) >= 0.97 and share_of_boxes(b, a) >= 0.97


@pytest.mark.parametrize('head', heads.HEADS)
def test_same_boxes_as_mmdet(head, images, tmp_path):
    trained = make(tmp_path, head)
    expected = predicted(*trained, images)
    for name, options in dict(raw={}, nms=dict(nms=True), free=dict(dynamic=True)).items():
        file = tmp_path / f'{name}.pt'
        export(*trained, file, 'torchscript', **options)
        assert_same_boxes(expected, predicted(trained[0], file, images))
        outputs = ['boxes', 'scores', *['factors'] * (head in ('fcos', 'atss')), *['levels'] * (name == 'free')]
        assert list(ExportedFile(file).meta['outputs']) == (['boxes', 'scores', 'labels'] if name == 'nms' else outputs)


@pytest.mark.parametrize('shape', [None, (224, 224)])
def test_images_that_are_padded_to_one_size(shape, images, tmp_path):
    """Proportions are kept, as in RTMDet's configs; a file of another size than the config's goes on with that."""
    config, checkpoint = make(tmp_path, 'rtmdet')
    text = config.read_text()
    assert f'scale={SIZE[::-1]}, keep_ratio=False),' in text
    config.write_text(text.replace(f'scale={SIZE[::-1]}, keep_ratio=False),',
                                   "scale=(192, 192), keep_ratio=True), dict(type='Pad', size=(192, 192)),"))
    file = tmp_path / 'a.pt'
    export(config, checkpoint, file, 'torchscript', shape=shape)
    size = shape or (192, 192)
    assert ExportedFile(file).meta['shape'] == [1, 3, *size]
    # The checkpoint, with images of this size.
    options = {'test_dataloader.dataset.pipeline.1.scale': size[::-1], 'test_dataloader.dataset.pipeline.2.size':
               size[::-1]}
    assert_same_boxes(predicted(config, checkpoint, images, **options), predicted(config, file, images))


@pytest.mark.slow
@pytest.mark.parametrize('head, name', [('atss', 'onnx'), ('atss', 'openvino'), *[('fcos', name) for name in PHONES]])
def test_other_formats(head, name, images, tmp_path):
    fmt, trained = require(name), make(tmp_path, head)
    expected = predicted(*trained, images)
    for option, options in dict(raw={}, nms=dict(nms=True), dynamic=dict(dynamic=True)).items():
        if option not in fmt.refuses:
            file = tmp_path / f'{option}{fmt.suffix}'
            export(*trained, file, name, **options)
            assert_same_boxes(expected, predicted(trained[0], file, images))
    if 'int8' not in fmt.refuses and name != 'executorch':  # whose passes end on weights that levels share
        export(*trained, tmp_path / f'int8{fmt.suffix}', name, calibration=images)
        scores = [ExportedFile(tmp_path / f'{kind}{fmt.suffix}')(read_image(next(images.iterdir()), SIZE))['scores']
                  for kind in ('raw', 'int8')]
        assert np.corrcoef(*map(np.ravel, scores))[0, 1] > 0.9
    if 'dynamic' not in fmt.refuses:  # another size than that of the export
        export(*trained, tmp_path / 'torch.pt', 'torchscript', dynamic=True)
        got, wanted = (ExportedFile(path)(example_image((96, 128)).numpy()) for path in (file, tmp_path / 'torch.pt'))
        for output in ('boxes', 'scores'):
            np.testing.assert_allclose(got[output], wanted[output], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('test_cfg, at_least', [
    (dict(min_bbox_size=30, nms_pre=1000), 5),  # in pixels of the original image
    (dict(score_thr=0.66, nms_pre=-1), 1),  # mmdet then drops the worst of each level
], ids=['min_bbox_size', 'no nms_pre'])
def test_rarer_settings(test_cfg, at_least, images, tmp_path):
    trained = make(tmp_path, 'atss', **test_cfg)
    expected = predicted(*trained, images)
    export(*trained, tmp_path / 'a.pt', 'torchscript')
    assert_same_boxes(expected, predicted(trained[0], tmp_path / 'a.pt', images), at_least)
    if 'score_thr' in test_cfg:
        export(*trained, tmp_path / 'nms.pt', 'torchscript', nms=True)
        assert_same_boxes(expected, predicted(trained[0], tmp_path / 'nms.pt', images), at_least)
    else:
        with pytest.raises(ConfigError, match='Cannot export NMS with test_cfg.min_bbox_size=30: mmdet measures'):
            export(*trained, tmp_path / 'nms.pt', 'torchscript', nms=True)


def test_thresholds_of_a_file_without_nms_are_free(images, tmp_path):
    trained, options = make(tmp_path, 'fcos'), {'model.test_cfg.score_thr': 0.55, 'model.test_cfg.nms_pre': 15}
    export(*trained, tmp_path / 'a.pt', 'torchscript')
    before = predicted(*trained, images)
    expected = predicted(*trained, images, **options)
    assert any(a['labels'].size != b['labels'].size or share_of_boxes(a, b) < 0.9
               for a, b in zip(before, expected, strict=True))
    assert_same_boxes(expected, predicted(trained[0], tmp_path / 'a.pt', images, **options))


def test_other_selections_are_refused(tmp_path):
    trained = make(tmp_path, 'retinanet')
    init_default_scope('mmdet')
    model = MODELS.build(read_config(trained[0], {'model.backbone.init_cfg': None}).model)

    class Other(type(model.bbox_head)):

        def _bbox_post_process(self, results, **kwargs):
            return results

    model.bbox_head.__class__ = Other
    with pytest.raises(ConfigError, match='Allowed are one-stage detectors whose head decodes'):
        DeployableDetector(model)


@pytest.mark.slow
def test_tools(shapes_root, tmp_path):
    """tools/export.py and tools/test.py on the drawn shapes."""
    trained = make(tmp_path, 'fcos')
    python('tools/export.py', *trained, '--out', tmp_path / 'a.onnx')
    found = []
    for checkpoint in (trained[1], tmp_path / 'a.onnx'):
        python('tools/test.py', trained[0], checkpoint, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out.pkl',
               *cfg_options(), SHAPES_ROOT=shapes_root)
        answers = [each['pred_instances'] for each in pickle.loads((tmp_path / 'out.pkl').read_bytes())]
        found.append([dict(boxes=each['bboxes'].numpy()[None], scores=each['scores'].numpy()[None],
                           labels=each['labels'].numpy()[None]) for each in answers])
    assert_same_boxes(*found)
