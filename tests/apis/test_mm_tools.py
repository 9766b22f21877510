"""mmdet's and mmseg's tools and inferencers on our configs, by ``python -m mobileone_mm`` if needed."""
import importlib.metadata
import importlib.util
import json
import pickle
import re
from copy import deepcopy
from pathlib import Path

import mmcv
import mmdet
import mmengine
import mmseg
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.utils.benchmark import InferenceBenchmark
from mmengine.config import Config
from mmengine.model import BaseModel, convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmseg.apis import MMSegInferencer, inference_model, init_model
from PIL import Image
from torch import nn

import mobileone_mm
from mobileone_mm import reparameterize_model
from mobileone_mm.__main__ import find_script
from mobileone_mm.compat.mmcv_ops import has_compiled_ops
from tests.support import detection, segmentation
from tests.support.paths import ROOT, real_data
from tests.support.reference import randomize, reference_maps
from tests.support.runs import python

DETECTOR, SEGMENTOR = detection.SHAPES, segmentation.SHAPES
TASKS = [DETECTOR, SEGMENTOR]
task_ids = dict(ids=lambda config: config.split('/')[1])


def mm(script, *arguments, **kwargs):
    """Run a tool of mmdet or mmseg."""
    return python('-m', 'mobileone_mm', script, *arguments, **kwargs)


def build(config):
    cfg = Config.fromfile(ROOT / config)
    init_default_scope(cfg.default_scope)
    return randomize(MODELS.build(cfg.model))


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """A checkpoint of each task, as a run writes it; its norms are random."""
    paths = {}
    for config in TASKS:
        paths[config] = tmp_path_factory.mktemp('checkpoints') / 'epoch_1.pth'
        cfg = Config.fromfile(ROOT / config)
        classes = [f'class {i}' for i in range(6)]
        torch.save(dict(state_dict=build(config).state_dict(), optimizer={}, meta=dict(
            cfg=cfg.pretty_text, dataset_meta=dict(classes=classes, palette=[(40 * i, 0, 200) for i in range(6)]))),
            paths[config])
    return paths


@pytest.fixture(scope='module')
def images(shapes_root):
    return sorted((shapes_root / 'JPEGImages').glob('val_*'))[:2]


def tensor_of(result):
    """The tensor to compare in a prediction of either task."""
    return result.pred_instances.scores if 'pred_instances' in result else result.seg_logits.data


def assert_like_branches(model, predict):
    """A prediction equals the one of a backbone that sums its branches."""
    got = tensor_of(predict(model))
    branches = deepcopy(model)
    outputs = branches.backbone.out_indices
    branches.backbone.forward = lambda x: tuple(reference_maps(branches.backbone, x)[i] for i in outputs)
    expected = tensor_of(predict(branches))
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert expected.abs().max() > 0
    return got


def sync_bn_and_back(model):
    # mmengine leaves converted norms in training mode, but not reverted ones
    return revert_sync_batchnorm(convert_sync_batchnorm(deepcopy(model)).eval())


# --- the Python interfaces

def test_init_detector(checkpoints, images):
    model = init_detector(str(ROOT / DETECTOR), str(checkpoints[DETECTOR]), device='cpu')
    assert not model.training and model.dataset_meta['classes'][0] == 'class 0'
    got = assert_like_branches(model, lambda model: inference_detector(model, str(images[0])))
    for form in (sync_bn_and_back(model), reparameterize_model(model)):
        torch.testing.assert_close(tensor_of(inference_detector(form, str(images[0]))), got, rtol=1e-3, atol=1e-4)


def test_init_model(checkpoints, images):
    model = init_model(str(ROOT / SEGMENTOR), str(checkpoints[SEGMENTOR]), device='cpu')
    got = assert_like_branches(model, lambda model: inference_model(model, str(images[0])))
    for form in (sync_bn_and_back(model), reparameterize_model(model)):
        torch.testing.assert_close(tensor_of(inference_model(form, str(images[0]))), got, rtol=1e-3,
                                   atol=1e-3 * got.abs().max().item())


def test_inferencers(checkpoints, images, tmp_path):
    """Images and predictions are written, and are those of init_detector and init_model."""
    files = [str(image) for image in images]
    detector = DetInferencer(str(ROOT / DETECTOR), str(checkpoints[DETECTOR]), device='cpu', show_progress=False)
    got = detector(files, batch_size=2, out_dir=str(tmp_path / 'det'), no_save_pred=False)['predictions']
    model = init_detector(str(ROOT / DETECTOR), str(checkpoints[DETECTOR]), device='cpu')
    for result, file in zip(got, files, strict=True):
        expected = inference_detector(model, file).pred_instances
        assert result['scores'] == pytest.approx(expected.scores.tolist(), rel=1e-3)
    assert len(list((tmp_path / 'det' / 'vis').iterdir())) == len(list((tmp_path / 'det' / 'preds').iterdir())) == 2

    segmentor = MMSegInferencer(str(ROOT / SEGMENTOR), str(checkpoints[SEGMENTOR]), device='cpu')
    masks = segmentor(files, out_dir=str(tmp_path / 'seg'))['predictions']
    model = init_model(str(ROOT / SEGMENTOR), str(checkpoints[SEGMENTOR]), device='cpu')
    for mask, file in zip(masks, files, strict=True):
        assert (mask == inference_model(model, file).pred_sem_seg.data[0].numpy()).mean() > 0.999
    assert len(list((tmp_path / 'seg' / 'vis').iterdir())) == len(list((tmp_path / 'seg' / 'pred').iterdir())) == 2


@pytest.mark.parametrize('fuses', [False, True])
def test_mmdets_benchmark(fuses, checkpoints, shapes_root, monkeypatch):
    """Its order (load, fuse_conv_bn, to the device, eval) on its own class, which expects a GPU."""
    monkeypatch.setattr(BaseModel, 'cuda', lambda self, device=None: self)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device=None: None)
    monkeypatch.setattr('mmdet.utils.benchmark.get_max_cuda_memory', lambda: 0)
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    cfg = Config.fromfile(ROOT / DETECTOR)
    cfg.work_dir = ''
    init_default_scope('mmdet')
    benchmark = InferenceBenchmark(cfg, str(checkpoints[DETECTOR]), False, fuses, max_iter=3, log_interval=1,
                                   num_warmup=1)
    # With it, a norm is gone in each branch.
    assert fuses == any(isinstance(module, nn.Identity) for module in benchmark.model.backbone.modules())
    assert benchmark.run()['avg_fps'] > 0
    data = next(iter(benchmark.data_loader))
    with torch.no_grad():
        assert_like_branches(benchmark.model, lambda model: model.test_step(deepcopy(data))[0])


# --- the tools, as subprocesses

def test_a_script_is_found():
    assert find_script(str(ROOT / 'tools/train.py')) == str(ROOT / 'tools/train.py')
    assert find_script('mmdet/test.py').endswith('mmdet/.mim/tools/test.py')
    for wrong in ('nothing', 'mmdet/nothing.py', 'no-package/test.py', 'mmdet', 'tools/nothing.py'):
        with pytest.raises(FileNotFoundError, match='Give a path, or PACKAGE/PATH_BELOW_TOOLS'):
            find_script(wrong)


def test_run_without_a_script_or_with_a_wrong_one():
    assert 'SCRIPT [ARGUMENT' in python('-m', 'mobileone_mm', check=False).stderr
    result = mm('mmdet/nothing.py', check=False)
    assert result.returncode == 1 and 'Traceback' not in result.stderr and 'There is no script' in result.stderr


@pytest.mark.parametrize('deploy, params', [(False, '6.157M'), pytest.param(True, '2.942M', marks=pytest.mark.slow)])
def test_get_flops_of_mmdet(deploy, params):
    """MACs are those of the deploy form; the parameters are those that the module holds."""
    output = mm('mmdet/analysis_tools/get_flops.py', 'configs/detection/ssdlite_mobileone_s0.py', '--num-images', 1,
                '--cfg-options', 'model.backbone.init_cfg=None', f'model.backbone.deploy={deploy}',
                COCO_ROOT=real_data('coco')).stdout
    assert 'Flops: 0.709G' in output and f'Params: {params}' in output


@pytest.mark.slow
@pytest.mark.parametrize('deploy, params', [(False, '14.828M'), (True, '11.613M')])
def test_get_flops_of_mmseg(deploy, params):
    output = mm('mmseg/analysis_tools/get_flops.py', 'configs/segmentation/deeplabv3_mobileone_s0_voc12aug.py',
                '--shape',
                512, 512, '--cfg-options', 'model.backbone.init_cfg=None', f'model.backbone.deploy={deploy}').stdout
    assert 'Flops: 12.182G' in output and f'Params: {params}' in output


@pytest.mark.slow
@pytest.mark.parametrize('config', TASKS, **task_ids)
def test_print_config(config, tmp_path):
    library = 'mmdet' if config == DETECTOR else 'mmseg'
    # It may write an example.py where it runs.
    printed = mm(f'{library}/misc/print_config.py', ROOT / config, cwd=tmp_path).stdout
    assert "type='MobileOne'" in printed and "arch='s2'" in printed


@pytest.mark.slow
@pytest.mark.parametrize('script, config', [
    ('mmdet/analysis_tools/browse_dataset.py', DETECTOR), ('mmseg/analysis_tools/browse_dataset.py', SEGMENTOR)])
def test_browse_dataset(script, config, shapes_root, tmp_path):
    mm(script, config, '--not-show', '--output-dir', tmp_path, '--cfg-options', 'train_dataloader.dataset.indices=3',
       SHAPES_ROOT=shapes_root)
    drawn = [np.asarray(Image.open(path)) for path in tmp_path.iterdir()]
    assert len(drawn) == 3 and all(image.std() > 10 for image in drawn)


@pytest.mark.slow
def test_analyze_logs_and_publish_model(shapes_root, tmp_path):
    """A run's log is read and drawn; the published model has the metrics of the run's checkpoint."""
    work = tmp_path / 'work'
    options = detection.options('s0', 1)
    python('tools/train.py', DETECTOR, '--work-dir', work, *options, SHAPES_ROOT=shapes_root)
    log = next(work.glob('*/vis_data/scalars.json'))
    script = 'mmdet/analysis_tools/analyze_logs.py'
    mm(script, 'plot_curve', log, '--keys', 'loss_cls', '--out', tmp_path / 'curve.png', '--style', 'ggplot')
    assert np.asarray(Image.open(tmp_path / 'curve.png')).std() > 10
    assert re.search(r'average iter time: [\d.]+ s/iter', mm(script, 'cal_train_time', log).stdout)

    mm('mmdet/model_converters/publish_model.py', work / 'epoch_1.pth', tmp_path / 'ssdlite.pth')
    published = next(tmp_path.glob('ssdlite-*.pth'))
    assert published.stat().st_size < 0.7 * (work / 'epoch_1.pth').stat().st_size
    python('tools/test.py', DETECTOR, published, '--work-dir', tmp_path / 'test', *options, SHAPES_ROOT=shapes_root)
    assert detection.metrics(tmp_path / 'test') == detection.metrics(work)


@pytest.mark.slow
def test_confusion_matrix_of_mmdet(checkpoints, shapes_root, tmp_path):
    options = ['--cfg-options', 'model.test_cfg.score_thr=0.001', 'test_dataloader.num_workers=0',
               'test_dataloader.persistent_workers=False']
    python('tools/test.py', DETECTOR, checkpoints[DETECTOR], '--out', tmp_path / 'predictions.pkl', '--work-dir',
           tmp_path,
           *options, SHAPES_ROOT=shapes_root)
    assert len(pickle.loads((tmp_path / 'predictions.pkl').read_bytes())) == 6
    mm('mmdet/analysis_tools/confusion_matrix.py', DETECTOR, tmp_path / 'predictions.pkl', tmp_path / 'matrix',
       '--score-thr', 0.001, SHAPES_ROOT=shapes_root)
    assert np.asarray(Image.open(tmp_path / 'matrix' / 'confusion_matrix.png')).std() > 10


@pytest.mark.slow
def test_confusion_matrix_of_mmseg(tmp_path):
    """On a dataset that names its classes, which the tool needs."""
    config, root = 'configs/segmentation/deeplabv3_mobileone_s0_voc12aug.py', real_data('VOCdevkit') / 'VOC2012'
    checkpoint = tmp_path / 'random.pth'
    torch.save(dict(state_dict=segmentation.segmentor().state_dict()), checkpoint)
    options = segmentation.options(**{'test_dataloader.dataset.indices': 2})
    python('tools/test.py', config, checkpoint, '--out', tmp_path / 'masks', '--work-dir', tmp_path, *options,
           VOC_ROOT=root)
    mm('mmseg/analysis_tools/confusion_matrix.py', config, tmp_path / 'masks', tmp_path / 'matrix', *options,
       VOC_ROOT=root)
    assert np.asarray(Image.open(tmp_path / 'matrix' / 'confusion_matrix.png')).std() > 10


@pytest.mark.slow
def test_mmsegs_benchmark(checkpoints, tmp_path):
    """Its own script stops after 200 images, and needs as many."""
    python('tools/make_shapes.py', tmp_path / 'shapes', '--num-train', 1, '--num-val', 201, '--size', 64)
    mm('mmseg/analysis_tools/benchmark.py', SEGMENTOR, checkpoints[SEGMENTOR], '--work-dir', tmp_path / 'fps',
       SHAPES_ROOT=tmp_path / 'shapes')
    assert json.loads(next((tmp_path / 'fps').glob('*.json')).read_text())['average_fps'] > 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('pytorch_grad_cam') is None, reason='needs grad-cam')
def test_grad_cam_of_mmseg(checkpoints, images, tmp_path):
    mm('mmseg/analysis_tools/visualization_cam.py', images[0], SEGMENTOR, checkpoints[SEGMENTOR], '--out-file',
       tmp_path / 'prediction.png', '--cam-file', tmp_path / 'cam.png', '--target-layers', 'backbone.stage4',
       '--category-index', 0, '--device', 'cpu')
    assert np.asarray(Image.open(tmp_path / 'cam.png')).std() > 10


def test_env_tells_what_is_installed():
    lines = dict(line.split(': ', 1) for line in python('-m', 'mobileone_mm', 'env').stdout.splitlines())
    assert lines['torch'].startswith(f'{torch.__version__}, CUDA ')
    assert lines['mobileone_mm'] == f'{mobileone_mm.__version__}, in {Path(mobileone_mm.__file__).parent}'
    for library in (mmengine, mmcv, mmdet, mmseg):
        assert lines[library.__name__].endswith(f' {library.__version__}')
    assert lines["mmcv's operators"] == ('compiled' if has_compiled_ops() else 'the stand-in of mobileone_mm')
    assert f'onnxruntime {importlib.metadata.version("onnxruntime")}' in lines['exporters and runtimes']
