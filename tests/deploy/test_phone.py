"""Files for the runtimes of phones answer as the checkpoint does. Files are run by tools, in processes of their own:
some of these runtimes end the process on what they do not like."""
import json
import shutil
import sys
from operator import le

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mobileone_mm.datasets.images import read_image
from mobileone_mm.deploy.export import example_image, export, share_of_boxes
from mobileone_mm.deploy.formats import FORMATS
from mobileone_mm.deploy.formats.base import Job
from mobileone_mm.deploy.reader import ExportedFile
from mobileone_mm.engine.config import read_config
from mobileone_mm.utils.errors import (
    ArgumentError,
    ConfigError,
    ExportedFileError,
    MissingFileError,
    MissingPackageError,
)
from tests.support.apple import apples_classifier, imagenet_images
from tests.support.formats import PHONES, exported, formats, require
from tests.support.paths import ROOT, real_data
from tests.support.runs import logged, python

pytestmark = pytest.mark.slow  # exports, which together take minutes


def test_the_documentation_has_the_table():
    page = (ROOT / 'docs/deployment.md').read_text(encoding='utf-8')
    for name, each in FORMATS.items():
        options = ['no' if option in each.refuses else 'yes' for option in ('dynamic', 'nms', 'fp16', 'int8')]
        assert f'| {each.title} | `{name}` | `{each.suffix}` | {" | ".join(options)} | {each.note} |' in page


@formats(*PHONES)
def test_metrics_are_those_of_the_checkpoint(name, tiny_detector, tiny_segmentor, shapes_root, tmp_path):
    fmt = require(name)
    for model, metric in ((tiny_detector, 'coco/bbox_mAP'), (tiny_segmentor, 'mIoU')):
        out = tmp_path / f'{metric[:4].strip("/")}{fmt.suffix}'
        assert 'differ by at most' in exported(model, out, name)
        assert {path.name for path in out.parent.glob(f'{out.stem}.*')} == {path.name for path in fmt.files(out)}
        work = tmp_path / out.stem
        python('tools/test.py', model[0], out, '--work-dir', work, SHAPES_ROOT=shapes_root)
        expected = logged(model[1].parent, metric)
        # Of a detector of two epochs many scores all but tie, and rounding decides about their order.
        assert logged(work, metric) == pytest.approx(expected, abs=0.01 if 'coco' in metric else 1e-6)


@formats(*PHONES)
def test_predictions_and_metadata(name, tiny_detector, shapes_root, tmp_path):
    fmt = require(name)
    out = tmp_path / f'detector{fmt.suffix}'
    exported(tiny_detector, out, name)
    code = f"""
import json
from mobileone_mm.deploy.reader import ExportedFile
from mobileone_mm.engine.config import read_config
print(json.dumps(ExportedFile({str(out)!r}).meta))"""
    meta = json.loads(python('-c', code).stdout.strip().split('\n')[-1])
    assert meta['task'] == 'detection' and meta['classes'][0] == 'circle'
    assert meta['outputs'].keys() == {'boxes', 'scores'}
    image = next((shapes_root / 'JPEGImages').glob('*.png'), None) or next((shapes_root / 'JPEGImages').iterdir())
    found = {}
    for source in (tiny_detector[1], out):
        folder = tmp_path / source.suffix[1:]
        python('tools/predict.py', image, tiny_detector[0], source, '--out-dir', folder, '--score-thr', '0.01')
        boxes = json.loads(next((folder / 'preds').glob('*.json')).read_text())['boxes']
        assert len(boxes) > 5
        found[source] = dict(boxes=np.array([[box['box'] for box in boxes]]),
                             scores=np.array([[box['score'] for box in boxes]]),
                             labels=np.array([[meta['classes'].index(box['label']) for box in boxes]]))
    expected, got = found.values()
    assert share_of_boxes(expected, got, pixels=0.01, score=1e-5) > 0.99  # scores that tie stand in any order


@pytest.mark.slow
@pytest.mark.parametrize('name', ['executorch', 'litert'])
def test_int8(name, tiny_detector, tiny_segmentor, shapes_root, tmp_path):
    """Outputs differ from those in float32, and not much; the file is smaller."""
    fmt = require(name)
    for model in (tiny_detector, tiny_segmentor):
        sizes = {}
        for options in ([], ['--int8', shapes_root / 'JPEGImages']):
            out = tmp_path / f'{len(options)}{fmt.suffix}'
            printed = exported(model, out, name, *options)
            sizes[len(options)] = out.stat().st_size
        work = tmp_path / model[1].parent.parent.name
        python('tools/test.py', model[0], out, '--work-dir', work, SHAPES_ROOT=shapes_root)
        metric = 'mIoU' if model is tiny_segmentor else 'coco/bbox_mAP'
        assert logged(work, metric)[metric] == pytest.approx(
            logged(model[1].parent, metric)[metric], abs=5 if metric == 'mIoU' else 0.05)
        differences = [float(part.split()[0].rstrip('.')) for part in printed.replace(',', ' ').split('at most ')[1:]]
        assert all(0 < difference < 5 for difference in differences), printed
        assert sizes[2] < sizes[0]  # of so small networks tables are most of a file


@pytest.mark.slow
@pytest.mark.parametrize('name', ['executorch', 'litert'])
def test_int8_of_apples_s0(name, tmp_path):
    """Real weights and images: 20 of 25 in float32, in int8 17 in ExecuTorch and 18 in LiteRT."""
    fmt, hits = require(name), []
    model, calibration = apples_classifier(), real_data('coco') / 'val2017'
    meta = dict(task='classification', outputs=dict(logits=''), shape=[1, 3, 224, 224], classes=[], config='')
    for folder in (None, calibration):
        out = tmp_path / f'{folder is None}{fmt.suffix}'
        fmt.write(Job(model, torch.zeros(1, 3, 224, 224), out, meta, calibration=folder))
        file = ExportedFile(out)
        hits.append(sum(file(image)['logits'].argmax() == label for image, label in imagenet_images()))
    assert hits[0] >= 19 and hits[1] >= hits[0] - 4, hits


@pytest.mark.parametrize('name, options, message', [
    ('ncnn', dict(nms=True), '--nms is not for .* in the app'),
    *[(name, dict(dynamic=True), '--dynamic is not for .* Name one size') for name in ('litert', 'ncnn')],
    *[(name, dict(half=True), '--fp16 is not for .* Name --int8') for name in ('executorch', )],
    *[(name, dict(calibration='x'), '--int8 is not for .*Leave --int8 out') for name in ('mnn', 'ncnn')],
    ('ncnn', dict(batch=2), '--batch is not for ncnn here'),
])
def test_what_a_format_does_not_have(name, options, message, tiny_detector, tmp_path):
    with pytest.raises(ArgumentError, match=message):
        export(*tiny_detector, tmp_path / f'out{FORMATS[name].suffix}', name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('backend', ['vulkan', 'coreml'])
def test_backends_of_phones(backend, tiny_detector, tmp_path):
    require('executorch')
    if backend == 'coreml':
        require('coreml')
    out = tmp_path / 'a.pte'
    assert 'It was not executed' in exported(tiny_detector, out, 'executorch', '--backend', backend)
    result = python('tools/test.py', tiny_detector[0], out, '--work-dir', tmp_path / 'work', check=False)
    assert result.returncode == 1 and f'is for the backend {backend}, which there is on phones only' in result.stderr


@pytest.mark.parametrize('options, message', [
    (dict(fmt='onnx', backend='vulkan'), '--backend vulkan is not for ONNX. Leave it out.'),
    (dict(fmt='executorch', backend='mps'), '--backend mps is not for ExecuTorch. Allowed are xnnpack, vulkan, coreml'),
    (dict(fmt='executorch', backend='vulkan', nms=True), '--backend vulkan goes without --dynamic, --nms and --int8'),
])
def test_backends_that_are_refused(options, message, tiny_detector, tmp_path):
    require(options['fmt'])
    with pytest.raises(ArgumentError, match=message):
        export(*tiny_detector, tmp_path / f'a{FORMATS[options["fmt"]].suffix}', **options)


def test_half_precision_of_weights(tiny_detector, tmp_path):
    for name in ('mnn', 'ncnn'):
        fmt, sizes = require(name), []
        for options in ([], ['--fp16']):
            out = tmp_path / f'{len(options)}{fmt.suffix}'
            printed = exported(tiny_detector, out, name, *options)
            sizes.append(sum(path.stat().st_size for path in fmt.files(out)))
        assert sizes[1] < 0.8 * sizes[0] and 'differ by at most' in printed


@formats('executorch', 'mnn')
def test_free_sizes(name, tiny_segmentor, shapes_root, tmp_path):
    fmt = require(name)
    printed = exported(tiny_segmentor, tmp_path / f'free{fmt.suffix}', name, '--dynamic')
    exported(tiny_segmentor, tmp_path / 'free.onnx', 'onnx', '--dynamic')
    image = example_image((64, 96)).numpy()
    file = ExportedFile(tmp_path / f'free{fmt.suffix}')
    got, expected = (each(image)['logits'] for each in (file, ExportedFile(tmp_path / 'free.onnx')))
    np.testing.assert_allclose(got, expected, atol=1e-4)
    if name == 'executorch':  # whose memory is planned for a largest size
        assert 'Free sizes are those from 64 to 1024.' in printed and file.meta['shape'] == [1, 3, None, None]
        result = python('tools/predict.py', next((shapes_root / 'JPEGImages').iterdir()), tiny_segmentor[0],
                        tmp_path / 'free.pte', '--out-dir', tmp_path / 'out', '--shape', 32, 64, check=False)
        assert 'The file takes heights and widths from 64 to 1024, got 32x64. Resize images (--shape, ' in result.stderr


@pytest.mark.slow
def test_a_cut_end_of_litert(tiny_detector, tmp_path):
    """Weights in half precision lie behind the flatbuffer."""
    require('litert')
    out = tmp_path / 'half.tflite'
    exported(tiny_detector, out, 'litert', '--fp16')
    whole = out.read_bytes()
    for missing in (10, 500, 1500):
        out.write_bytes(whole[:-missing])
        with pytest.raises(ExportedFileError, match='is damaged, or was not written by tools/export.py'):
            ExportedFile(out)


def test_a_foreign_file_of_mnn(tmp_path):
    require('mnn')
    helper = pytest.importorskip('onnx').helper
    graph = helper.make_graph([helper.make_node('Relu', ['a'], ['b'])], 'g', *(
        [helper.make_tensor_value_info(name, 1, [1, 3, 4, 4])] for name in 'ab'))
    (tmp_path / 'a.onnx').write_bytes(helper.make_model(graph).SerializeToString())
    python('-c', 'import sys, MNN, _tools; _tools.mnnconvert(sys.argv)', '-f', 'ONNX', '--modelFile',
           tmp_path / 'a.onnx', '--MNNModel', tmp_path / 'a.mnn', '--bizCode', 'MNN')
    with pytest.raises(ExportedFileError, match='it has no metadata of ours'):
        ExportedFile(tmp_path / 'a.mnn')


def test_a_library_that_glibc_refuses(tiny_detector, tmp_path, monkeypatch):
    """MNN's, on Debian 13: to install it again would not help."""
    require('onnx')
    (tmp_path / 'MNN.py').write_text("raise ImportError('x.so: cannot enable executable stack as shared object')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'MNN', raising=False)
    with pytest.raises(MissingPackageError, match=r'GLIBC_TUNABLES=glibc\.rtld\.execstack=2 in the env') as raised:
        export(*tiny_detector, tmp_path / 'a.mnn', 'mnn')
    assert 'pip install' not in str(raised.value)


@formats('executorch', 'litert', 'mnn')
def test_nms_in_the_file(name, tiny_detector, shapes_root, tmp_path):
    fmt = require(name)
    out = tmp_path / f'nms{fmt.suffix}'
    assert '100.00% of the boxes are alike' in exported(tiny_detector, out, name, '--nms')
    python('tools/test.py', tiny_detector[0], out, '--work-dir', tmp_path / 'work', SHAPES_ROOT=shapes_root)
    expected = logged(tiny_detector[1].parent, 'coco/bbox_mAP')
    assert logged(tmp_path / 'work', 'coco/bbox_mAP') == pytest.approx(expected, abs=0.01)


@pytest.fixture(scope='module')
def s0(tmp_path_factory):
    """Our configs of S0, with Apple's weights in the backbone and random ones behind it."""
    folder, trained = tmp_path_factory.mktemp('s0'), []
    for config in ('detection/ssdlite_mobileone_s0', 'segmentation/deeplabv3_mobileone_s0_voc12aug'):
        cfg = read_config(ROOT / f'configs/{config}.py')
        cfg.model.backbone.update(deploy=True, init_cfg=dict(
            type='Pretrained', checkpoint=str(real_data('mobileone_s0_fused') / 'mobileone_s0_fused.pth')))
        init_default_scope(cfg.default_scope)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        trained.append((ROOT / f'configs/{config}.py', folder / f'{len(trained)}.pth'))
        torch.save(dict(state_dict=model.state_dict()), trained[-1][1])
    return trained


@pytest.mark.slow
@pytest.mark.parametrize('name', PHONES)
def test_s0_in_full_size(name, s0, tmp_path):
    fmt, calibration = require(name), tmp_path / 'calibration'
    calibration.mkdir()
    for path in sorted((real_data('coco') / 'val2017').iterdir())[:8]:
        shutil.copy(path, calibration)
    image = read_image(next(calibration.iterdir()), (320, 320))
    for number, (model, limits) in enumerate(zip(s0, ((0.01, 1e-5), (1e-4, )), strict=True)):
        out, int8 = (tmp_path / f'{number}{kind}{fmt.suffix}' for kind in ('', 'int8'))
        printed = exported(model, out, name, '--shape', 320, 320)
        differences = [float(part.split()[0].rstrip(',.')) for part in printed.split('at most ')[1:]]
        assert len(differences) == len(limits) and all(map(le, differences, limits)), printed
        if 'int8' not in fmt.refuses and model is s0[0]:  # the tiny segmentor has a test
            exported(model, int8, name, '--shape', 320, 320, '--int8', calibration)
            assert int8.stat().st_size < 0.65 * out.stat().st_size  # SSDLite's last convolutions are half of it
            last = {path: list(ExportedFile(path)(image).values())[-1].ravel() for path in (out, int8)}
            assert np.corrcoef(last[out], last[int8])[0, 1] > 0.9


def test_classes_instead_of_logits(tiny_segmentor, tmp_path):
    """MNN has them; ncnn has no layer for them, and would end the process."""
    require('mnn')
    exported(tiny_segmentor, tmp_path / 'mask.mnn', 'mnn', '--argmax')
    require('ncnn')
    with pytest.raises(ConfigError, match=r'ncnn has no layers .*argmax.* Export logits'):
        export(*tiny_segmentor, tmp_path / 'mask.param', 'ncnn', argmax=True)
    assert [path.name for path in tmp_path.iterdir()] == ['mask.mnn']


@formats(*PHONES)
def test_damaged_and_foreign_files(name, tiny_detector, tmp_path):
    fmt = require(name)
    out = tmp_path / f'detector{fmt.suffix}'
    exported(tiny_detector, out, name)
    whole = out.read_bytes()
    for content in (b'', b'something else', whole[:len(whole) // 3]):
        out.write_bytes(content)
        result = python('tools/test.py', tiny_detector[0], out, '--work-dir', tmp_path / 'work', check=False)
        assert result.returncode == 1 and 'Traceback' not in result.stderr, result.stderr
        assert f"'{out}' is damaged, or was not written by tools/export.py" in result.stderr
    out.write_bytes(whole)
    for suffix in fmt.companions:
        shutil.move(out.with_suffix(suffix), tmp_path / 'away')
        with pytest.raises(MissingFileError, match=f"There is no file '{out.with_suffix(suffix)}'"):
            ExportedFile(out)
        shutil.move(tmp_path / 'away', out.with_suffix(suffix))
    for suffix in fmt.companions:
        if suffix == '.json':
            out.with_suffix(suffix).write_text('{"task": ')
            with pytest.raises(ExportedFileError, match='it has no metadata of ours'):
                ExportedFile(out)
    (tmp_path / f'other{fmt.suffix}x').write_bytes(whole)
    with pytest.raises(ExportedFileError, match='allowed are files that end in .*mnn'):
        ExportedFile(tmp_path / f'other{fmt.suffix}x')


def test_the_documented_selection_of_boxes_is_mmdets():
    """The lines for an app, against mmdet's own NMS per class."""
    from mobileone_mm.compat.mmcv_ops import batched_nms

    page = (ROOT / 'docs/deployment.md').read_text(encoding='utf-8')
    code = next(block.split('```')[0] for block in page.split('```python\n') if 'def select(' in block)
    names = {}
    exec(code, names)
    rng = np.random.default_rng(0)
    corners = rng.random((60, 2)) * 50
    boxes = np.concatenate([corners, corners + 5 + 20 * rng.random((60, 2))], axis=1).astype(np.float32)
    scores = rng.random((60, 3)).astype(np.float32)
    found = names['select'](boxes, scores, score_thr=0.3, most=40)
    index, labels = (scores > 0.3).nonzero()
    kept, order = batched_nms(torch.tensor(boxes[index]), torch.tensor(scores[index, labels]), torch.tensor(labels),
                              dict(type='nms', iou_threshold=0.45))
    assert len(found) == min(40, len(kept))
    for (score, label, box), row, number in zip(found, kept, order, strict=False):
        np.testing.assert_allclose([*box, score], row.numpy(), rtol=1e-6)
        assert label == labels[number]


def test_executorch_sees_no_shared_weights():
    """Its partitioner merges what reads one weight, in the order of a set: some runs then had circles."""
    require('executorch')
    from mobileone_mm.deploy.formats.executorch import _unshare

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3)
            self.norms = torch.nn.ModuleList(torch.nn.GroupNorm(1, 3) for _ in 'ab')

        def forward(self, image):
            return [self.conv(norm(self.conv(image[..., i:]))) for i, norm in enumerate(self.norms)]

    image, head = torch.rand(1, 3, 16, 16), Head().eval()
    program = torch.export.export(head, (image, ))
    _unshare(program)
    readers = {node.name: len(node.users) for node in program.graph.find_nodes(op='placeholder')}
    assert readers.pop('image') > 1 and set(readers.values()) == {1}
    assert len(readers) == 4 * 2 + 4  # four convolutions, two norms, each with weight and bias
    for expected, got in zip(head(image), program.module()(image), strict=True):
        torch.testing.assert_close(got, expected)
