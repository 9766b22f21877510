"""Exported files predict as mm does, and hold one convolution per block."""
import json
import os
import shutil
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mobileone_mm.apis.predict import build_inferencer
from mobileone_mm.compat.mmcv_ops import batched_nms
from mobileone_mm.datasets.images import read_image, read_images
from mobileone_mm.deploy.export import example_image, export, share_of_boxes
from mobileone_mm.deploy.exported_model import use_exported
from mobileone_mm.deploy.formats import onnx as onnx_format
from mobileone_mm.deploy.graphs import trace_onnx
from mobileone_mm.deploy.quantize import quantize
from mobileone_mm.deploy.reader import ExportedFile, is_exported
from mobileone_mm.deploy.runtimes import onnxruntime_session
from mobileone_mm.deploy.wrappers import make_deployable
from mobileone_mm.deploy.wrappers.nms import select_boxes
from mobileone_mm.engine.config import read_config
from mobileone_mm.utils.errors import ExportedFileError, MissingPackageError
from tests.support.apple import apples_classifier, imagenet_images
from tests.support.paths import ROOT, real_data
from tests.support.reference import randomize
from tests.support.runs import cfg_options, logged, python

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
import onnx
import onnxruntime

TINY = """
arch = dict(_delete_=True, num_blocks=(1, 1, 2, 1), width_multipliers=(0.25, 0.25, 0.25, 0.25), num_conv_branches=2,
            num_se_blocks=(0, 0, 1, 1))
"""
DETECTOR = f"_base_ = r'{ROOT}/configs/detection/ssdlite_mobileone_s0.py'" + TINY + """
model = dict(backbone=dict(arch=arch, init_cfg=None),
             neck=dict(in_channels=(64, 128), out_channels=(64, 128, 64, 32, 32, 32)),
             bbox_head=dict(in_channels=(64, 128, 64, 32, 32, 32)))
"""
SEGMENTOR = f"_base_ = r'{ROOT}/configs/segmentation/deeplabv3_mobileone_s0_voc12aug.py'" + TINY + """
model = dict(backbone=dict(arch=arch, init_cfg=None), decode_head=dict(in_channels=128, channels=32))
"""
NUM_BLOCKS = 1 + 2 * 5
# Of neck and head: 4 extra levels of 1x1, depthwise, 1x1; 6 levels of depthwise and 1x1 for classes
# and for boxes.
NUM_DETECTOR_CONVS = 4 * 3 + 6 * 2 * 2
NUM_SEGMENTOR_CONVS = 5 + 1 + 1  # ASPP and image pooling, projection, classes
NUM_SE_CONVS = 2 * 4


def settle(model, size):
    """Random norms, with statistics that keep a random network's outputs in range."""
    randomize(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.weight, std=0.05)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(nn.functional.interpolate(torch.randn(4, 3, 20, 20), size), mode='tensor')
    return model


def make_trained(folder, text, size):
    (folder / 'config.py').write_text(text)
    cfg = Config.fromfile(folder / 'config.py')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)  # before the model is built, so that it does not depend on earlier tests
    model = settle(MODELS.build(cfg.model), size)
    torch.save(dict(state_dict=model.state_dict()), folder / 'trained.pth')
    return folder / 'config.py', folder / 'trained.pth'


@pytest.fixture(scope='module')
def detector(tmp_path_factory):
    return make_trained(tmp_path_factory.mktemp('detector'), DETECTOR, (320, 320))


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory):
    return make_trained(tmp_path_factory.mktemp('segmentor'), SEGMENTOR, (128, 128))


@pytest.fixture(scope='module')
def detector_onnx(detector, tmp_path_factory):
    out = tmp_path_factory.mktemp('onnx') / 'detector.onnx'
    export(*detector, out, 'onnx', nms=True)
    return out


@pytest.fixture(scope='module')
def segmentor_onnx(segmentor, tmp_path_factory):
    out = tmp_path_factory.mktemp('onnx') / 'segmentor.onnx'
    export(*segmentor, out, 'onnx', shape=(128, 160), argmax=True)
    return out


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Folder of three images of different sizes."""
    folder = tmp_path_factory.mktemp('images')
    for i, shape in enumerate([(240, 320), (333, 257), (320, 320)]):
        image = example_image(shape)[0].permute(1, 2, 0).numpy()
        noise = np.random.default_rng(i).normal(0, 20, image.shape)
        cv2.imwrite(str(folder / f'{i}.png'), (image + noise).clip(0, 255).astype(np.uint8))
    return folder


def predicted(config, checkpoint, folder):
    """Predictions of mm's inferencer, with its loading, resizing, forward, decoding and NMS."""
    inferencer = build_inferencer(read_config(config), checkpoint, 'cpu')
    files = sorted(map(str, folder.glob('*.[jp][pn]g')))
    samples = [inferencer(file, return_datasamples=True) for file in files]
    return [sample['predictions'][0] if isinstance(sample, dict) else sample for sample in samples]


def as_arrays(sample):
    found = sample.pred_instances
    return dict(boxes=found.bboxes.numpy()[None], scores=found.scores.numpy()[None], labels=found.labels.numpy()[None])


def assert_alike(expected, got):
    """Tolerance: boxes within 0.5 px and scores within 1e-3 after NMS, 99.9 % of a mask."""
    for a, b in zip(expected, got, strict=True):
        if 'pred_instances' in a:
            assert len(a.pred_instances) > 10
            # At the end of the list and at the IoU threshold, rounding decides between boxes.
            assert share_of_boxes(as_arrays(a), as_arrays(b)) >= 0.99
        else:
            assert len(a.pred_sem_seg.data.unique()) > 1
            assert (a.pred_sem_seg.data == b.pred_sem_seg.data).float().mean() >= 0.999


def test_detector_predicts_as_mm(detector, detector_onnx, images):
    assert_alike(predicted(*detector, images), predicted(detector[0], detector_onnx, images))


@pytest.mark.parametrize('fmt, suffix', [('torchscript', '.pt'), ('openvino', '.xml')])
def test_detector_in_other_formats(fmt, suffix, detector, images, tmp_path):
    if fmt == 'openvino':
        pytest.importorskip('openvino')
    out = tmp_path / f'detector{suffix}'
    result = export(*detector, out, fmt, nms=True)
    assert result['agreement'].endswith('alike (class, within 0.5 px and 0.001 of the score)')
    assert_alike(predicted(*detector, images), predicted(detector[0], out, images))


@pytest.mark.slow
def test_detector_without_nms(detector, images, tmp_path):
    out = tmp_path / 'raw.onnx'
    export(*detector, out, 'onnx')
    file = ExportedFile(out)
    outputs = file(read_image(images / '0.png', (320, 320)))
    num_priors = 6 * (20**2 + 10**2 + 5**2 + 3**2 + 2**2 + 1)
    assert {key: value.shape for key, value in outputs.items()} == dict(boxes=(1, num_priors, 4),
                                                                        scores=(1, num_priors, 80))
    assert_alike(predicted(*detector, images), predicted(detector[0], out, images))


@pytest.mark.parametrize('fmt, suffix', [
    pytest.param('onnx', '.onnx', marks=pytest.mark.slow), ('torchscript', '.pt')])
def test_free_sizes(fmt, suffix, detector, segmentor, tmp_path):
    for trained, shapes in ((detector, [(1, 320, 320), (3, 256, 352)]), (segmentor, [(1, 128, 128), (2, 161, 97)])):
        out = tmp_path / f'{trained[0].parent.name}{suffix}'
        options = dict(nms=True) if trained is detector else {}
        export(*trained, out, fmt, dynamic=True, **options)
        file = ExportedFile(out)
        cfg = read_config(trained[0])
        model = build_inferencer(cfg, trained[1], 'cpu').model
        deployable = make_deployable(model, cfg, **options)
        for batch, height, width in shapes:
            image = example_image((height, width), batch)
            with torch.no_grad():
                expected = deployable(image)
            got = file(image.numpy())
            if trained is detector:
                expected = {name: value.numpy()
                            for name, value in zip(('boxes', 'scores', 'labels'), expected, strict=True)}
                assert share_of_boxes(expected, got) >= 0.99
            else:
                torch.testing.assert_close(torch.from_numpy(got['logits']), expected, rtol=0, atol=1e-3)


def test_a_file_is_opened_once_for_config_and_model(segmentor, segmentor_onnx, tmp_path, monkeypatch):
    opened = []
    session = onnx_format.onnxruntime_session
    monkeypatch.setattr(onnx_format, 'onnxruntime_session', lambda *args: opened.append(args) or session(*args))
    file = tmp_path / 'segmentor.onnx'
    for number in (1, 2):  # once more when it was written again
        shutil.copy(segmentor_onnx, file)
        os.utime(file, (number, number))
        cfg = read_config(segmentor[0])
        use_exported(cfg, file)
        MODELS.build(cfg.model)
        assert len(opened) == number


def test_segmentor_predicts_as_mm(segmentor, segmentor_onnx, tmp_path):
    image = example_image((128, 160))[0].permute(1, 2, 0).numpy().astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), image[..., ::-1])
    output = ExportedFile(segmentor_onnx)(read_image(tmp_path / 'a.png', (128, 160)))
    cfg = read_config(segmentor[0])
    cfg.test_dataloader.dataset.pipeline[1].scale = (160, 128)
    sample = build_inferencer(cfg, segmentor[1], 'cpu')(str(tmp_path / 'a.png'), return_datasamples=True)
    expected = sample.pred_sem_seg.data.numpy()
    assert len(np.unique(expected)) > 1 and output['mask'].dtype == np.int32
    assert np.mean(expected == output['mask']) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['detector', 'segmentor'])
def test_s0_on_real_images(kind, tmp_path):
    """The whole S0 with real images, in the config's sizes."""
    is_detector = kind == 'detector'
    folder = real_data('coco') / 'val2017' if is_detector else real_data('VOCdevkit') / 'VOC2012' / 'JPEGImages'
    few = tmp_path / 'few'
    few.mkdir()
    for file in sorted(folder.glob('*.jpg'))[:8]:
        image = cv2.imread(str(file))
        # With a graph of one size, a segmentor gets other pixels than by the keep_ratio of its
        # pipeline.
        cv2.imwrite(str(few / f'{file.stem}.png'), image if is_detector else cv2.resize(image, (512, 512)))
    name = 'detection/ssdlite_mobileone_s0' if is_detector else 'segmentation/deeplabv3_mobileone_s0_voc12aug'
    text = f"_base_ = r'{ROOT}/configs/{name}.py'\nmodel = dict(backbone=dict(init_cfg=None))\n"
    trained = make_trained(tmp_path, text, (320, 320))
    options = dict(nms=True) if is_detector else dict(argmax=True)
    export(*trained, tmp_path / 'out.onnx', 'onnx', **options)
    assert_alike(predicted(*trained, few), predicted(trained[0], tmp_path / 'out.onnx', few))
    ops = Counter(node.op_type for node in onnx.load(tmp_path / 'out.onnx').graph.node)
    assert ops['Conv'] == 43 + (NUM_DETECTOR_CONVS if is_detector else NUM_SEGMENTOR_CONVS)
    assert not ops['BatchNormalization']


def test_one_convolution_per_block(detector, detector_onnx, segmentor_onnx, tmp_path):
    for file, others in ((detector_onnx, NUM_DETECTOR_CONVS), (segmentor_onnx, NUM_SEGMENTOR_CONVS)):
        ops = Counter(node.op_type for node in onnx.load(file).graph.node)
        assert ops['Conv'] == NUM_BLOCKS + NUM_SE_CONVS + others and not ops['BatchNormalization']
    export(*detector, tmp_path / 'a.pt', 'torchscript')
    kinds = Counter(node.kind() for node in torch.jit.load(tmp_path / 'a.pt').inlined_graph.nodes())
    assert kinds['aten::_convolution'] + kinds['aten::conv2d'] == NUM_BLOCKS + NUM_SE_CONVS + NUM_DETECTOR_CONVS
    assert not kinds['aten::batch_norm']


def nodes(block):
    """Of a TorchScript graph, those in branches and loops too."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from nodes(inner)


@pytest.mark.parametrize('options', [dict(), dict(nms=True), dict(dynamic=True), dict(dynamic=True, nms=True)],
                         ids=lambda options: ' '.join(options) or 'plain')
def test_torchscript_runs_on_any_device(options, detector, segmentor, tmp_path):
    """``map_location`` moves the tensors of a file, but no device that is written into its graph."""
    models = [detector] if options.get('nms') else [detector, segmentor]
    for trained in models:
        export(*trained, tmp_path / 'a.pt', 'torchscript', shape=(128, 128), **options)
        graph = torch.jit.load(tmp_path / 'a.pt').inlined_graph
        devices = [node for node in nodes(graph) for value in node.inputs()
                   if value.type().kind() == 'DeviceObjType' and value.node().kind() != 'prim::device']
        assert not devices, devices
        # Without a device, these would be made on torch's default one.
        created = {node.kind() for node in nodes(graph)} & {
            'aten::zeros', 'aten::ones', 'aten::empty', 'aten::linspace', 'aten::scalar_tensor', 'aten::eye'}
        assert not created, created


def test_core_ml(detector, segmentor, tmp_path):
    """Converted, and read back; it can be executed on Apple's systems only."""
    tools = pytest.importorskip('coremltools')
    mask = dict(argmax=True, shape=(128, 160))
    for trained, options, others, outputs in ((detector, {}, NUM_DETECTOR_CONVS, ['boxes', 'scores']),
                                              (segmentor, mask, NUM_SEGMENTOR_CONVS, ['mask'])):
        out = tmp_path / f'{trained[0].parent.name}.mlpackage'
        assert export(*trained, out, 'coreml', half=True, **options)['agreement'] is None
        spec = tools.models.MLModel(str(out), skip_model_load=True).get_spec()
        image, = spec.description.input
        height, width = options.get('shape', (320, 320))
        assert (image.name, image.type.imageType.height, image.type.imageType.width) == ('image', height, width)
        assert [output.name for output in spec.description.output] == outputs
        function = spec.mlProgram.functions['main']
        ops = Counter(op.type for op in function.block_specializations[function.opset].operations)
        assert ops['conv'] == NUM_BLOCKS + NUM_SE_CONVS + others and not ops['batch_norm']
        assert len(json.loads(spec.description.metadata.userDefined['mobileone_mm'])['classes']) in (80, 21)


def test_metadata(detector_onnx):
    meta = ExportedFile(detector_onnx).meta
    assert meta['task'] == 'detection' and meta['shape'] == [1, 3, 320, 320]
    assert meta['classes'][:2] == ['person', 'bicycle']
    assert list(meta['outputs']) == ['boxes', 'scores', 'labels'] and 'RGB' in meta['input']


@pytest.mark.slow
def test_deploy_checkpoint_exports_alike(detector, tmp_path):
    python('tools/reparameterize.py', *detector, tmp_path / 'deployed.pth')
    image = example_image((320, 320)).numpy()
    for name, checkpoint in (('a', detector[1]), ('b', tmp_path / 'deployed.pth')):
        export(detector[0], checkpoint, tmp_path / f'{name}.pt', 'torchscript')
    a, b = ExportedFile(tmp_path / 'a.pt')(image), ExportedFile(tmp_path / 'b.pt')(image)
    np.testing.assert_allclose(a['scores'], b['scores'], atol=1e-5)


@pytest.mark.slow
def test_one_output_channel(segmentor, images, tmp_path):
    """Two classes by one logit: its threshold is mm's, which is not 0.5."""
    text = SEGMENTOR + '''
model.update(decode_head=dict(num_classes=2, out_channels=1, in_channels=128, channels=32, align_corners=True,
                              loss_decode=dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=True)))
train_dataloader = dict(dataset=dict(metainfo=dict(classes=('a', 'b'))))
test_dataloader = dict(dataset=dict(metainfo=dict(classes=('a', 'b'), palette=[[0, 0, 0], [255, 0, 0]])))
'''
    trained = make_trained(tmp_path, text, (128, 128))
    # The bias by which mm's threshold divides the first image in two halves.
    checkpoint = torch.load(trained[1])
    median = predicted(*trained, images)[0].seg_logits.data.double().median()
    checkpoint['state_dict']['decode_head.conv_seg.bias'] += torch.tensor(0.3).logit() - median.logit()
    torch.save(checkpoint, trained[1])
    export(*trained, tmp_path / 'a.pt', 'torchscript', dynamic=True)
    meta = ExportedFile(tmp_path / 'a.pt').meta
    assert meta['threshold'] == 0.3 and meta['align_corners'] is True and meta['classes'] == ['a', 'b']
    assert_alike(predicted(*trained, images), predicted(trained[0], tmp_path / 'a.pt', images))


def test_half_precision(segmentor, tmp_path):
    image = example_image((128, 128)).numpy()
    logits = {}
    for half in (False, True):
        out = tmp_path / f'{half}.onnx'
        export(*segmentor, out, 'onnx', shape=(128, 128), half=half)
        logits[half] = ExportedFile(out)(image)['logits']
    assert logits[True].dtype == np.float32
    assert 0 < np.abs(logits[True] - logits[False]).max() < 0.02 * np.abs(logits[False]).max()
    assert (tmp_path / 'True.onnx').stat().st_size < 0.6 * (tmp_path / 'False.onnx').stat().st_size


def test_int8(segmentor, images, tmp_path):
    shape = (128, 128)
    export(*segmentor, tmp_path / 'float.onnx', 'onnx', shape=shape)
    export(*segmentor, tmp_path / 'int8.onnx', 'onnx', shape=shape, calibration=images)
    whole = onnx.load(tmp_path / 'float.onnx')
    onnx.save(quantize(whole, read_images(images, shape), per_channel=False), tmp_path / 'per_tensor.onnx')
    image = read_image(images / '0.png', shape)
    # Without optimization all is computed in float32, in steps of 8 bits. With kernels of int8 it would depend on the
    # CPU: on x86 without VNNI, sums saturate.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = {name: onnxruntime.InferenceSession(tmp_path / f'{name}.onnx', options)
                for name in ('float', 'int8', 'per_tensor')}
    logits = {name: session.run(['logits'], {'image': image})[0] for name, session in sessions.items()}
    error = {name: np.abs(logits[name] - logits['float']).mean() for name in logits}
    assert 0 < error['int8'] < 0.2 * logits['float'].std() and error['int8'] < error['per_tensor']
    ops = Counter(node.op_type for node in onnx.load(tmp_path / 'int8.onnx').graph.node)
    assert ops['QuantizeLinear'] > NUM_BLOCKS


@pytest.mark.slow
def test_int8_of_apples_s0():
    """Real weights and images are hard to quantize: 20 of 25 in float, 18 here, 3 per tensor."""
    calibration = real_data('coco') / 'val2017'
    whole = trace_onnx(apples_classifier(), torch.zeros(1, 3, 224, 224), 'image', ['logits'])
    variants = {'float': whole, 'channel': quantize(whole, read_images(calibration, (224, 224))),
                'tensor': quantize(whole, read_images(calibration, (224, 224)), per_channel=False)}
    hits = dict.fromkeys(variants, 0)
    for image, label in imagenet_images():
        for variant, proto in variants.items():
            logits, = onnxruntime_session(proto.SerializeToString()).run(None, {'image': image})
            hits[variant] += logits.argmax() == label
    assert hits['float'] >= 19 and hits['channel'] >= hits['float'] - 3 and hits['tensor'] < hits['channel'], hits


@pytest.mark.slow
def test_metrics_of_a_file_and_its_checkpoint(detector, detector_onnx, tmp_path):
    """tools/test.py on real COCO, whose metric compares every box."""
    root = real_data('coco')
    metrics = []
    for checkpoint in (detector[1], detector_onnx):
        work_dir = tmp_path / checkpoint.stem
        python('tools/test.py', detector[0], checkpoint, '--work-dir', work_dir, '--out', tmp_path / 'out.pkl',
               '--show-dir', tmp_path / 'shown', *cfg_options(), COCO_ROOT=root)
        metrics.append(logged(work_dir, 'coco/bbox_mAP'))
        assert (tmp_path / 'out.pkl').is_file() and list((tmp_path / 'shown').glob('*.jpg')
                                                         or work_dir.rglob('shown/*.jpg'))
    assert metrics[0] == pytest.approx(metrics[1], abs=2e-3)


def test_greedy_selection_is_batched_nms():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 300, 2, generator=generator) * 100
    boxes = torch.cat((corners, corners + 5 + torch.rand(2, 300, 2, generator=generator) * 60), -1)
    scores = torch.rand(2, 300, 4, generator=generator)
    scores = scores * (scores > 0.6)
    got = select_boxes(boxes, scores, 0.45, 50, scores[0].numel())
    for i in range(2):
        index, labels = scores[i].nonzero(as_tuple=True)
        found, kept = batched_nms(boxes[i][index], scores[i][index, labels], labels,
                                  dict(type='nms', iou_threshold=0.45))
        torch.testing.assert_close(got[0][i], found[:50, :4])
        torch.testing.assert_close(got[1][i], found[:50, 4])
        assert torch.equal(got[2][i], labels[kept[:50]])
    none = select_boxes(boxes, torch.zeros_like(scores), 0.45, 50, 100)
    assert not none[1].any() and (none[2] == -1).all()


class TestBadInput:

    @pytest.mark.parametrize('options, message', [
        (dict(fmt='onnx', out='a.pt'), r'A file of format onnx ends in \.onnx'),
        (dict(fmt='coreml', out='a.mlpackage', nms=True), '--nms is not for Core ML here. Leave --nms out'),
        (dict(fmt='torchscript', out='a.pt', calibration='x'), '--int8 is not for TorchScript here. Name'),
        (dict(fmt='torchscript', out='a.pt', batch=0), 'The batch is at least 1'),
        (dict(fmt='torchscript', out='a.pt', batch=2, dynamic=True), 'with free sizes .* is not to be given; got 2'),
        (dict(fmt='onnx', out='a.onnx', argmax=True), 'argmax is for segmentors'),
        (dict(fmt='onnx', out='a.onnx', shape=(0, 320)), 'The input size is 0x320'),
        (dict(fmt='onnx', out='a.onnx', calibration='nowhere'), "There is no folder 'nowhere'"),
        (dict(fmt='onnx', out='a.onnx', nms=True, cfg_options={'model.test_cfg.nms.type': 'soft_nms'}),
         'Cannot export this NMS'),
    ], ids=lambda value: value['fmt'] if isinstance(value, dict) else '')
    def test_options(self, options, message, detector, tmp_path):
        options = dict(options)
        out = tmp_path / options.pop('out')
        with pytest.raises((ValueError, FileNotFoundError, MissingPackageError), match=message):
            export(*detector, out, options.pop('fmt'), **options)
        assert not list(tmp_path.iterdir())

    def test_other_models(self, detector, tmp_path):
        (tmp_path / 'no_scope.py').write_text("custom_imports = dict(imports=['mobileone_mm'])\n"
                                              "model = dict(type='MobileOne', arch='s0', deploy=True)\n")
        cfg = Config.fromfile(tmp_path / 'no_scope.py')
        with pytest.raises(ValueError, match=r'Can export detectors .* got default_scope=None'):
            make_deployable(MODELS.build(cfg.model), cfg)
        cfg = Config.fromfile(detector[0])
        cfg.model.bbox_head = dict(type='YOLOXHead', num_classes=3, in_channels=8)
        init_default_scope('mmdet')
        model = MODELS.build(Config.fromfile(detector[0]).model)
        model.bbox_head = MODELS.build(cfg.model.bbox_head)
        with pytest.raises(ValueError, match='Cannot export SingleStageDetector with YOLOXHead. Allowed are one-stage'):
            make_deployable(model, cfg)

    def test_missing_package(self, detector, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'openvino', None)
        message = r'OpenVINO needs openvino, not importable .*mobileone_mm\[export\]'
        with pytest.raises(MissingPackageError, match=message):
            export(*detector, tmp_path / 'a.xml', 'openvino')

    def test_files(self, detector, segmentor, detector_onnx, tmp_path):
        (tmp_path / 'cut.onnx').write_bytes(detector_onnx.read_bytes()[:5000])
        with pytest.raises(ExportedFileError, match='is damaged, or was not written by'):
            ExportedFile(tmp_path / 'cut.onnx')
        with pytest.raises(FileNotFoundError, match=r'There is no file'):
            ExportedFile(tmp_path / 'none.onnx')
        with pytest.raises(ValueError, match='is for detection, and .* is not'):
            build_inferencer(read_config(segmentor[0]), detector_onnx)
        cfg = read_config(detector[0], {'test_dataloader.dataset.metainfo': dict(classes=('a', 'b'))})
        with pytest.raises(ValueError, match='has 80 classes .* has 2'):
            build_inferencer(cfg, detector_onnx)

    def test_what_a_file_cannot_follow(self, detector, detector_onnx, tmp_path):
        options = {'model.test_cfg.score_thr': 0.3}
        with pytest.raises(ValueError, match=r'model\.test_cfg\.score_thr is fixed in'):
            use_exported(read_config(detector[0], options), detector_onnx, options)
        with pytest.raises(ValueError, match="There is no device 'gpu' here"):
            build_inferencer(read_config(detector[0]), detector_onnx, 'gpu')

    def test_resizing_inside_of_a_wrapper(self, detector, detector_onnx):
        cfg = read_config(detector[0])
        cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[cfg.test_dataloader.dataset])
        cfg.test_dataloader.dataset.datasets[0].pipeline[1].scale = (99, 99)
        use_exported(cfg, detector_onnx)
        assert cfg.test_dataloader.dataset.datasets[0].pipeline[1].scale == (320, 320)

    def test_images_that_lose_their_proportions(self, segmentor, segmentor_onnx, detector, detector_onnx, monkeypatch):
        said = []
        monkeypatch.setattr('mobileone_mm.deploy.exported_model.print_log', lambda text, **kwargs: said.append(text))
        use_exported(read_config(detector[0]), detector_onnx)
        assert not said
        use_exported(read_config(segmentor[0]), segmentor_onnx)
        assert 'lose the proportions that the config keeps' in said[0]

    def test_a_checkpoint_by_torchscripts_suffix(self, detector, tmp_path):
        (tmp_path / 'checkpoint.pt').write_bytes(detector[1].read_bytes())
        assert not is_exported(tmp_path / 'checkpoint.pt') and not is_exported(tmp_path / 'none.pt')
        build_inferencer(read_config(detector[0]), tmp_path / 'checkpoint.pt')

    def test_an_empty_root_variable(self, detector, monkeypatch):
        monkeypatch.setenv('COCO_ROOT', '')
        assert read_config(detector[0]).test_dataloader.dataset.data_root == 'data/coco/'

    def test_a_failed_export_leaves_what_was_there(self, detector, tmp_path, monkeypatch):
        (tmp_path / 'a.onnx').write_text('precious')
        monkeypatch.setattr('os.replace', lambda *args: (_ for _ in ()).throw(OSError('disk full')))
        with pytest.raises(OSError, match='disk full'):
            export(*detector, tmp_path / 'a.onnx', 'onnx')
        assert [file.name for file in tmp_path.iterdir()] == ['a.onnx']
        assert (tmp_path / 'a.onnx').read_text() == 'precious'


@pytest.mark.slow
def test_tool(detector, tmp_path):
    out = tmp_path / 'new' / 'a.onnx'
    result = python('tools/export.py', *detector, '--out', out, '--nms', '--shape', 160, 192)
    assert '100.00% of the boxes are alike' in result.stdout and '(1, 3, 160, 192)' in result.stdout
    result = python('tools/export.py', *detector, '--out', out, '--format', 'coreml', check=False)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith('Error: A file of format coreml ends')


@pytest.mark.slow
def test_predict(detector, detector_onnx, images, tmp_path):
    boxes = {}
    for name, checkpoint in (('mm', detector[1]), ('file', detector_onnx)):
        python('tools/predict.py', images, detector[0], checkpoint, '--out-dir', tmp_path / name, '--score-thr', 0.03)
        assert {file.name for file in (tmp_path / name / 'vis').iterdir()} == {'0.png', '1.png', '2.png'}
        written = json.loads((tmp_path / name / 'preds' / '1.json').read_text())
        assert (written['file'], written['width'], written['height']) == ('1.png', 257, 333)
        boxes[name] = written['boxes']
    assert len(boxes['mm']) == len(boxes['file']) > 3
    for a, b in zip(boxes['mm'], boxes['file'], strict=True):
        assert a['label'] == b['label'] and a['score'] == pytest.approx(b['score'], abs=1e-3) and a['score'] >= 0.03
        assert a['box'] == pytest.approx(b['box'], abs=0.5)
    before, after = cv2.imread(str(images / '0.png')), cv2.imread(str(tmp_path / 'mm' / 'vis' / '0.png'))
    assert before.shape == after.shape and (before != after).any()


@pytest.mark.slow
def test_predict_masks(segmentor, segmentor_onnx, images, tmp_path):
    for name, checkpoint in (('mm', segmentor[1]), ('file', segmentor_onnx)):
        python('tools/predict.py', images / '1.png', segmentor[0], checkpoint, '--out-dir', tmp_path / name)
        written = json.loads((tmp_path / name / 'preds' / '1.json').read_text())
        mask = cv2.imread(str(tmp_path / name / 'preds' / written['mask']), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (333, 257) and sum(written['shares'].values()) == pytest.approx(1)
        assert len(written['shares']) == len(np.unique(mask)) and (tmp_path / name / 'vis' / '1.png').is_file()


@pytest.mark.slow
def test_predict_says_what_it_could_not_do(detector, images, tmp_path):
    for file in images.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / '0.jpg').write_bytes(b'')
    result = python('tools/predict.py', tmp_path, *detector, '--out-dir', tmp_path / 'out', check=False)
    assert result.returncode == 1 and "'0.jpg' and '0.png' would give one 0.json" in result.stderr
    (tmp_path / '0.jpg').rename(tmp_path / 'broken.jpg')
    result = python('tools/predict.py', tmp_path, *detector, '--out-dir', tmp_path / 'out', check=False)
    assert result.returncode == 1 and 'could not read' in result.stderr and 'broken.jpg' in result.stderr
    assert len(list((tmp_path / 'out' / 'preds').iterdir())) == 3
