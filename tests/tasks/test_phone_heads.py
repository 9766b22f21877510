"""RTMDet and LR-ASPP: configs after mmdet's and mmseg's, within their budgets; the tools and all formats on them."""
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.utils import register_all_modules

from mobileone_mm.engine.config import read_config
from tests.support.formats import PHONES, exported, formats, require
from tests.support.paths import ROOT, real_data
from tests.support.runs import cfg_options, logged, only, python
from tests.support.segmentation import images

pytestmark = pytest.mark.slow  # exports, which together take minutes

DETECTION, SEGMENTATION = ROOT / 'configs' / 'detection', ROOT / 'configs' / 'segmentation'
METRICS = dict(tiny_rtmdet='coco/bbox_mAP', tiny_lraspp='mIoU')
both = pytest.mark.parametrize('head', METRICS)


@pytest.fixture
def model(head, request):
    """Config and checkpoint."""
    return request.getfixturevalue(head)


def metrics_of(model, file, head, shapes_root, work_dir, *options):
    """Metrics by the test tool of a checkpoint or an exported file."""
    python('tools/test.py', model[0], file, '--work-dir', work_dir, *options, SHAPES_ROOT=shapes_root)
    return logged(work_dir, METRICS[head])


# --- configs

def mmdets():
    root = Path(importlib.util.find_spec('mmdet').origin).parent / '.mim' / 'configs'
    return Config.fromfile(root / 'rtmdet' / 'rtmdet_tiny_8xb32-300e_coco.py')


@pytest.mark.parametrize('arch', ['s0', 's1', 's2'])
def test_rtmdets_recipe_is_mmdets(arch):
    ours, theirs = Config.fromfile(DETECTION / f'rtmdet_mobileone_{arch}.py'), mmdets()
    assert ours.optim_wrapper == theirs.optim_wrapper
    assert ours.param_scheduler == theirs.param_scheduler
    assert ours.auto_scale_lr.base_batch_size == 8 * ours.train_dataloader.batch_size
    assert ours.train_dataloader.batch_size == theirs.train_dataloader.batch_size
    for key in ('max_epochs', 'val_interval', 'dynamic_intervals'):
        assert ours.train_cfg[key] == theirs.train_cfg[key]
    assert ours.default_hooks.checkpoint.interval == theirs.default_hooks.checkpoint.interval
    ema, switch = ours.custom_hooks[:2]
    assert ema == theirs.custom_hooks[0] and switch.switch_epoch == theirs.custom_hooks[1].switch_epoch
    # Half the size, everywhere.
    halved = {640: 320, 1280: 640, 960: 480, 320: 160}

    def half(value):
        if isinstance(value, (list, tuple)):
            return [half(each) for each in value]
        if isinstance(value, dict):
            return {key: half(each) for key, each in value.items() if key != 'backend_args'}
        return halved.get(value, value) if not isinstance(value, bool) else value

    for pipeline in ('train_pipeline', 'test_pipeline', 'tta_pipeline'):
        assert json.dumps(ours[pipeline]) == json.dumps(half(theirs[pipeline]))
    assert json.dumps(switch.switch_pipeline) == json.dumps(half(theirs.custom_hooks[1].switch_pipeline))
    assert ours.train_dataloader.dataset.pipeline == ours.train_pipeline
    assert ours.test_dataloader.dataset.pipeline == ours.val_dataloader.dataset.pipeline == ours.test_pipeline
    # The model, but for what the config says is ours.
    mine = dict(ours.model.bbox_head)
    own = dict(in_channels=128, feat_channels=128, num_classes=80, use_depthwise=True, share_conv=False,
               norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU', inplace=True))
    assert mine == theirs.model.bbox_head | own
    assert ours.model.train_cfg == theirs.model.train_cfg
    assert ours.model.test_cfg == theirs.model.test_cfg | dict(nms_pre=1000)


def test_another_size_is_one_line(tmp_path):
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    file = tmp_path / 'configs' / 'detection' / '_base_' / 'coco_mosaic.py'
    text = file.read_text()
    assert text.count('320)') == text.count('(320, 320)') == 1
    file.write_text(text.replace('(320, 320)', '(416, 416)'))
    cfg = Config.fromfile(tmp_path / 'configs' / 'detection' / 'rtmdet_mobileone_s0.py')
    pipelines = json.dumps([cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader, cfg.custom_hooks,
                            cfg.tta_pipeline])
    assert pipelines.count('[416, 416]') >= 10 and '320' not in pipelines
    padded = cfg.tta_pipeline[1].transforms[2][0].size
    assert min(padded) >= 1.5 * 416 and all(side % 32 == 0 for side in padded)  # maps are doubled and joined


@pytest.mark.parametrize('folder, budgets', [
    ('detection', dict(rtmdet_mobileone_s0=(3.0, 1.0), rtmdet_mobileone_s1=(None, 2.2),
                       rtmdet_mobileone_s2=(None, 3.2))),
    ('segmentation', dict(lraspp_mobileone_s0_voc12aug=(None, 2.5), lraspp_mobileone_s0_ade20k=(None, 2.5))),
])
def test_budgets(folder, budgets):
    """By the metafiles, which another test compares with the configs."""
    models = yaml.safe_load((ROOT / 'configs' / folder / 'metafile.yml').read_text())['Models']
    counted = {model['Name']: model['Metadata'] for model in models}
    for name, (millions, giga) in budgets.items():
        assert millions is None or counted[name]['Parameters'] <= millions * 1e6
        assert counted[name]['FLOPs'] <= giga * 1e9


# --- the head

def test_lraspp_pools_globally():
    """Maps of any size; mmseg's head ends on those below 49x49. One image is enough to train on."""
    register_all_modules()
    cfg = Config.fromfile(SEGMENTATION / 'lraspp_mobileone_s0_voc12aug.py')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    data = model.data_preprocessor(images((96, 128)), True)
    losses = model.train()(**data, mode='loss')
    losses['decode.loss_ce'].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    head = model.decode_head.eval()
    x = torch.rand(1, 1024, 16, 19)
    with torch.no_grad():
        gate = head.image_pool(x)
        expected = head.image_pool[1](x.mean((2, 3), keepdim=True))
    torch.testing.assert_close(gate, expected)
    assert gate.shape == (1, 112, 1, 1)


# --- the tools

@both
def test_tools(head, model, shapes_root, tmp_path):
    """A test repeats the validation, also in the deploy form; a run goes on; another checkpoint is refused."""
    config, checkpoint = model
    expected = logged(checkpoint.parent, METRICS[head])
    assert metrics_of(model, checkpoint, head, shapes_root, tmp_path / 'test') == expected
    python('tools/reparameterize.py', config, checkpoint, tmp_path / 'deploy.pth')
    assert metrics_of(model, tmp_path / 'deploy.pth', head, shapes_root, tmp_path / 'deploy') == \
        pytest.approx(expected, abs=0.01)
    resumed = tmp_path / 'resumed'
    shutil.copytree(checkpoint.parent, resumed)
    python('tools/train.py', config, '--work-dir', resumed, '--resume', *cfg_options(**{'train_cfg.max_epochs': 3}),
           SHAPES_ROOT=shapes_root)
    assert (resumed / 'epoch_3.pth').is_file()
    prefix = 'bbox_head' if 'rtmdet' in head else 'decode_head'
    broken = torch.load(checkpoint, weights_only=True)
    key = next(key for key in broken['state_dict'] if key.startswith(prefix))
    del broken['state_dict'][key]
    torch.save(broken, tmp_path / 'broken.pth')
    result = python('tools/test.py', config, tmp_path / 'broken.pth', '--work-dir', tmp_path / 'broken', check=False,
                    SHAPES_ROOT=shapes_root)
    assert result.returncode == 1 and key in result.stderr and 'Traceback' not in result.stderr


@both
def test_tta(head, model, shapes_root, tmp_path):
    assert metrics_of(model, model[1], head, shapes_root, tmp_path, '--tta').keys() == \
        logged(model[1].parent, METRICS[head]).keys()


@both
@formats('onnx', 'torchscript', 'openvino', *PHONES)
def test_exported_files(head, model, name, shapes_root, tmp_path):
    """Metrics are the checkpoint's; the detector's file has NMS, the segmentor's takes any size, if there is that."""
    fmt = require(name)
    option = 'nms' if 'rtmdet' in head else 'dynamic'
    out = tmp_path / f'out{fmt.suffix}'
    exported(model, out, name, *([] if option in fmt.refuses else [f'--{option}']))
    expected = logged(model[1].parent, METRICS[head])
    assert metrics_of(model, out, head, shapes_root, tmp_path / 'test') == pytest.approx(expected, abs=0.02)


@formats('onnx', 'torchscript', 'executorch')
def test_free_sizes_of_rtmdet_are_multiples_of_32(name, tiny_rtmdet, tmp_path):
    fmt = require(name)
    printed = exported(tiny_rtmdet, tmp_path / f'a{fmt.suffix}', name, '--dynamic')
    assert 'that are multiples of 32.' in printed
    code = f"""
from mobileone_mm.deploy.export import example_image
from mobileone_mm.deploy.reader import ExportedFile
file = ExportedFile({str(tmp_path / f'a{fmt.suffix}')!r})
print(file(example_image((96, 160)).numpy())['boxes'].shape[1])
file(example_image((96, 150)).numpy())"""
    result = python('-c', code, check=False)
    assert result.stdout.split()[-1] == str(12 * 20 + 6 * 10 + 3 * 5)
    assert 'that are multiples of 32, got 96x150' in result.stderr.splitlines()[-1]


def test_sizes_that_the_network_does_not_take(tiny_rtmdet, tmp_path):
    result = python('tools/export.py', *tiny_rtmdet, '--out', tmp_path / 'a.pt', '--shape', 100, 100, check=False)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert 'The model does not take an image of 100x100' in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_predictions_of_files_are_those_of_the_checkpoint(tiny_rtmdet, shapes_root, tmp_path):
    image = sorted((shapes_root / 'JPEGImages').iterdir())[0]
    exported(tiny_rtmdet, tmp_path / 'a.onnx', 'onnx', '--nms')
    boxes = []
    for source in (tiny_rtmdet[1], tmp_path / 'a.onnx'):
        folder = tmp_path / source.suffix[1:]
        python('tools/predict.py', image, tiny_rtmdet[0], source, '--out-dir', folder, '--score-thr', '0.001')
        boxes.append(json.loads(next((folder / 'preds').glob('*.json')).read_text())['boxes'])
    assert len(boxes[0]) == len(boxes[1]) > 5
    for expected, got in zip(*boxes, strict=True):
        assert got['score'] == pytest.approx(expected['score'], abs=1e-4)


# --- real data and weights

@pytest.mark.slow
def test_rtmdet_on_coco(tmp_path):
    """The recipe of the config, mosaic and mixup, EMA and the switch of the pipeline, on real images."""
    coco, weights = real_data('coco'), real_data('mobileone_s0_fused') / 'mobileone_s0_fused.pth'
    settings = {'model.backbone.init_cfg.checkpoint': weights, 'model.backbone.init_cfg.expand': True,
                'model.backbone.norm_eval': True, 'custom_hooks.1.switch_epoch': 1, 'train_cfg.max_epochs': 2,
                'train_cfg.val_interval': 2, 'train_dataloader.batch_size': 4, 'train_dataloader.num_workers': 1,
                'train_dataloader.dataset.indices': 16, 'default_hooks.checkpoint.interval': 1, 'randomness.seed': 0}
    result = python('tools/train.py', DETECTION / 'rtmdet_mobileone_s0.py', '--work-dir', tmp_path,
                    *only(**settings), COCO_ROOT=coco)
    assert 'Switch pipeline now!' in result.stdout + result.stderr
    assert 'coco/bbox_mAP' in logged(tmp_path, 'coco/bbox_mAP')
    python('tools/train.py', DETECTION / 'rtmdet_mobileone_s0.py', '--work-dir', tmp_path, '--resume',
           *only(**settings | {'train_cfg.max_epochs': 3}), COCO_ROOT=coco)
    assert (tmp_path / 'epoch_3.pth').is_file()


@pytest.mark.slow
@pytest.mark.parametrize('folder, head, epochs, metric, least', [
    ('detection', 'rtmdet', 40, 'coco/bbox_mAP_50', 0.02), ('segmentation', 'lraspp', 15, 'mIoU', 15)])
def test_fine_tuning_from_apples_weights(folder, head, epochs, metric, least, shapes_root, tmp_path):
    """configs/_base_/finetune.py: it learns from few images; the backbone's statistics stay as they were."""
    weights = str(real_data('mobileone_s0_fused') / 'mobileone_s0_fused.pth')
    config = ROOT / 'configs' / folder / f'{head}_mobileone_s0_finetune_shapes.py'
    start = {'model.backbone.init_cfg.checkpoint': weights, 'model.backbone.init_cfg.expand': True}
    python('tools/train.py', config, '--work-dir', tmp_path, *only(**start, **{
        'train_cfg.max_epochs': epochs, 'train_cfg.val_interval': epochs, 'param_scheduler.1.end': epochs,
        'param_scheduler.1.T_max': epochs, 'default_hooks.checkpoint.interval': epochs,
        'train_dataloader.dataset.indices': 16, 'train_dataloader.batch_size': 4, 'randomness.seed': 0}),
        SHAPES_ROOT=shapes_root)
    values = logged(tmp_path, metric)
    assert values[metric] > least, values
    trained = torch.load(tmp_path / f'epoch_{epochs}.pth', weights_only=True)['state_dict']
    cfg = read_config(config, start)
    init_default_scope(cfg.default_scope)
    before = MODELS.build(cfg.model)
    before.backbone.init_weights()
    for key, value in before.state_dict().items():
        if key.startswith('backbone.'):
            is_statistic = key.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
            assert torch.equal(trained[key], value) == is_statistic, key
