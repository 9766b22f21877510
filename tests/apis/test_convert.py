"""tools/convert_checkpoint.py, tools/reparameterize.py, and loading a whole detector's weights."""
import argparse
import hashlib
import resource

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.runner import load_checkpoint

from mobileone_mm import ARCHS, MobileOne, reparameterize_model
from mobileone_mm.apis.convert import convert_checkpoint, deploy_checkpoint
from mobileone_mm.apis.launch import build_runner
from mobileone_mm.checkpoint.read import read_checkpoint
from mobileone_mm.utils.errors import CheckpointError, DiskError
from tests.support.detection import SHAPES, metrics, options
from tests.support.layouts import TO_MMPRETRAIN, rename
from tests.support.paths import ROOT, real_data
from tests.support.reference import randomize
from tests.support.runs import logged, python
from tests.support.segmentation import SHAPES as SEGMENTOR
from tests.support.segmentation import options as options_seg

SMALL = ['model.backbone.arch=s0', 'model.decode_head.in_channels=1024', 'model.decode_head.channels=16']


@pytest.fixture(scope='module')
def trained(shapes_root, tmp_path_factory):
    """A detector after one epoch, S0."""
    work = tmp_path_factory.mktemp('trained')
    python('tools/train.py', SHAPES, '--work-dir', work, *options('s0', 1), SHAPES_ROOT=shapes_root)
    return work


def config_of(work):
    """The config that the run dumped."""
    return next(work.glob('*.py'))


def test_detector_to_deploy_form(trained, shapes_root, tmp_path):
    """tools/test.py runs on it without edits, and gives the metrics of validation."""
    source, out = trained / 'epoch_1.pth', tmp_path / 'deploy.pth'
    before = source.read_bytes()
    result = python('tools/reparameterize.py', config_of(trained), source, out)
    assert 'parameters in the train form' in result.stdout and source.read_bytes() == before
    deployed = read_checkpoint(str(out))
    assert set(deployed) == {'state_dict', 'meta'} and out.stat().st_size < len(before) / 3
    assert not any('conv_branches' in key for key in deployed['state_dict'])
    meta = deployed['meta']
    assert meta['source_sha256'] == hashlib.sha256(before).hexdigest() and meta['arch'] == 's0'
    assert 'SingleStageDetector' in meta['cfg'] and meta['dataset_meta']['classes'][0] == 'circle'
    assert meta['versions'].keys() == {'mobileone_mm', 'torch', 'mmengine', 'mmcv', 'mmdet'}
    python('tools/test.py', config_of(trained), out, '--work-dir', tmp_path / 'test', '--cfg-options',
           'resume=True', SHAPES_ROOT=shapes_root)  # as in the config that a resumed run dumps
    expected, got = metrics(trained), metrics(tmp_path / 'test')
    assert got.keys() == expected.keys() and all(abs(got[key] - expected[key]) <= 1e-4 for key in expected)
    again = python('tools/reparameterize.py', config_of(trained), out, tmp_path / 'again.pth', check=False)
    assert again.returncode == 1 and 'in the deploy form already' in again.stderr
    assert not (tmp_path / 'again.pth').exists()


@pytest.mark.slow
def test_segmentor_with_ema_to_deploy_form(shapes_root, tmp_path):
    work, out, root = tmp_path / 'work', tmp_path / 'deploy.pth', dict(SHAPES_ROOT=shapes_root)
    python('tools/train.py', SEGMENTOR, '--work-dir', work, *options_seg(), *SMALL, **root)
    python('tools/reparameterize.py', config_of(work), work / 'epoch_1.pth', out)
    checkpoint = read_checkpoint(str(work / 'epoch_1.pth'))
    key = 'decode_head.conv_seg.weight'
    averaged, raw = checkpoint['state_dict'][key], checkpoint['ema_state_dict'][f'module.{key}']
    assert not torch.equal(averaged, raw) and torch.equal(read_checkpoint(str(out))['state_dict'][key], averaged)
    python('tools/test.py', config_of(work), out, '--work-dir', tmp_path / 'test', **root)
    expected, got = logged(work, 'mIoU'), logged(tmp_path / 'test', 'mIoU')
    assert all(abs(got[name] - expected[name]) <= 0.01 for name in expected)  # percent, of 1e-4


@pytest.mark.slow
@pytest.mark.parametrize('how', ['', 'ignore'])
def test_another_number_of_classes(how, trained, shapes_root, tmp_path):
    """An error lists what does not fit, unless the user says what to leave out."""
    extra = ['default_hooks.checkpoint_fit.ignore=[bbox_head.cls_convs]'] if how else []
    result = python('tools/train.py', SHAPES, '--work-dir', tmp_path, *options('s0', 1),
                    'model.bbox_head.num_classes=3',
                    'custom_hooks=[]', f'load_from={trained / "epoch_1.pth"}', *extra, check=False,
                    SHAPES_ROOT=shapes_root)
    output = result.stdout + result.stderr
    if how:
        # Three classes on data with five fail later, after the weights were loaded.
        assert 'Left out of the checkpoint, as asked for' in output and 'bbox_head.cls_convs.5.1.weight' in output
        assert 'does not fit' not in output
    else:
        assert result.returncode == 1 and 'Traceback' not in result.stderr and not list(tmp_path.glob('*.pth'))
        for part in ('The checkpoint does not fit this SingleStageDetector; of another shape: bbox_head.cls_convs.0.1',
                     'instead of (24,)', 'default_hooks.checkpoint_fit.ignore="[bbox_head.cls_convs]"'):
            assert part in result.stderr


@pytest.mark.slow
def test_weights_of_a_backbone_are_no_detector(trained, shapes_root, tmp_path):
    torch.save(MobileOne('s0').state_dict(), tmp_path / 'backbone.pth')
    result = python('tools/test.py', config_of(trained), tmp_path / 'backbone.pth', check=False,
                    SHAPES_ROOT=shapes_root)
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    message = "Got weights of a backbone alone, expected those of a whole model with keys below 'backbone.'"
    assert message in result.stderr
    result = python('tools/reparameterize.py', config_of(trained), tmp_path / 'backbone.pth', tmp_path / 'out.pth',
                    check=False)
    assert result.returncode == 1 and 'Got weights of a backbone alone' in result.stderr


class Hooked(BaseModel):
    """A minimal model that contains a backbone."""

    def __init__(self, arch='s0'):
        super().__init__()
        torch.manual_seed(len(arch))
        self.backbone = randomize(MobileOne(SMALL_ARCH), len(arch))
        self.head = torch.nn.Linear(4, 2)

    def forward(self, inputs=None, **kwargs):
        return dict(loss=self.head.weight.sum())


SMALL_ARCH = ARCHS['s0'] | dict(num_blocks=(1, 1, 1, 1))


def run(tmp_path, checkpoint, resume=False, **cfg):
    """Load a checkpoint as train.py does, with EMAHook; returns the runner."""
    torch.save(checkpoint, tmp_path / 'checkpoint.pth')
    config = Config(dict(
        model=dict(type=Hooked), work_dir=str(tmp_path), load_from=str(tmp_path / 'checkpoint.pth'), resume=resume,
        train_dataloader=dict(batch_size=1, num_workers=0, dataset=[dict(inputs=torch.zeros(1))] * 2,
                              sampler=dict(type='DefaultSampler')),
        train_cfg=dict(by_epoch=True, max_epochs=1), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.)),
        custom_hooks=[dict(type='EMAHook'), *cfg.pop('custom_hooks', [])], experiment_name=tmp_path.name) | cfg)
    runner = build_runner(config)
    runner.train()
    return runner


def checkpoints():
    """Forms in which a Runner may get the same weights, and the error of each."""
    weights = Hooked('other').state_dict()
    prefixed = {f'module.{key}': value for key, value in weights.items()}
    wrong_head = weights | {'head.weight': torch.zeros(3, 4)}
    return weights, {
        'as saved': (dict(state_dict=weights), None),
        'of DistributedDataParallel': (dict(state_dict=prefixed), None),
        'bare': (weights, None),
        'under another key': (dict(model=weights), None),
        'a backbone alone': (MobileOne(SMALL_ARCH).state_dict(), 'a backbone alone'),
        'another head': (dict(state_dict=wrong_head), 'of another shape: head.weight'),
        'no head': (dict(state_dict={k: v for k, v in weights.items() if 'head' not in k}), 'missing: head.bias'),
        'NaN': (dict(state_dict=weights | {'head.bias': torch.tensor([0, float('nan')])}), 'NaN, infinite'),
        'another model': (dict(state_dict={'layer1.weight': torch.zeros(1)}), 'no weights of a MobileOne'),
    }


@pytest.mark.parametrize('name', checkpoints()[1])
def test_a_whole_model_fits_or_is_refused(name, tmp_path):
    """With EMAHook, whose copy a test would use, and without our hooks in the config."""
    weights, cases = checkpoints()
    content, message = cases[name]
    if message:
        with pytest.raises(CheckpointError, match=message):
            run(tmp_path, content)
        return
    runner = run(tmp_path, content)
    ema = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module
    for model in (runner.model, ema):
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items()
                   if 'batches' not in key)


@pytest.mark.parametrize('damage, message', [
    (lambda s: [s.pop(key) for key in list(s) if 'head' in key], 'missing: head'),
    (lambda s: s.update({'module.head.weight': torch.zeros(3, 4)}), 'of another shape: head.weight'),
    (lambda s: s['module.head.bias'].fill_(float('nan')), 'NaN'),
    (lambda s: None, None),
], ids=['missing', 'reshaped', 'NaN', 'whole'])
def test_resume_checks_what_training_goes_on_with(damage, message, tmp_path):
    """EMAHook stores them under another key, ema_state_dict."""
    runner = run(tmp_path, Hooked().state_dict(), train_cfg=dict(by_epoch=True, max_epochs=1))
    saved = read_checkpoint(str(tmp_path / 'epoch_1.pth'))
    damage(saved['ema_state_dict'])
    again = dict(resume=True, train_cfg=dict(by_epoch=True, max_epochs=2), experiment_name=f'{runner.experiment_name}2')
    if message is None:
        run(tmp_path, saved, **again)
    else:
        with pytest.raises(CheckpointError, match=message):
            run(tmp_path, saved, **again)


def test_a_backbone_may_be_ignored_too(tmp_path):
    """It keeps its initial values."""
    weights = Hooked('other').state_dict()
    runner = run(tmp_path, {key: value for key, value in weights.items() if 'head' in key},
                 custom_hooks=[dict(type='CheckpointFitHook', ignore=['backbone.'])])
    got, own = runner.model.state_dict(), Hooked().state_dict()
    assert torch.equal(got['head.weight'], weights['head.weight'])
    assert torch.equal(got['backbone.stage0.scale_branch.conv.weight'], own['backbone.stage0.scale_branch.conv.weight'])


@pytest.mark.parametrize('content', [MobileOne(SMALL_ARCH).state_dict(), MobileOne('s1').state_dict(),
                                     dict(state_dict={'layer1.weight': torch.zeros(1)})], ids=['bare', 's1', 'other'])
def test_mmengines_loader_does_not_pass_a_backbone_over(content, tmp_path):
    torch.save(content, tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match='backbone alone|no weights of a MobileOne'):
        load_checkpoint(Hooked(), str(tmp_path / 'weights.pth'))


@pytest.mark.slow
def test_training_starts_from_apples_fused_weights(shapes_root, tmp_path):
    file = real_data('mobileone_s0_fused') / 'mobileone_s0_fused.pth'
    init_cfg = dict(_delete_=True, type='Pretrained', checkpoint=str(file), expand=True)
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = '{ROOT / SHAPES}'\nmodel = dict(backbone=dict(init_cfg={init_cfg}))\n"
                      "custom_hooks = [dict(type='CalibrateNormsHook', num_batches=2)]\n")
    settings = [option for option in options('s0', 1) if 'init_cfg' not in option]
    result = python('tools/train.py', config, '--work-dir', tmp_path / 'work', *settings, SHAPES_ROOT=shapes_root)
    assert 'Calibrating the norms of MobileOne on 2 batches' in result.stdout + result.stderr
    weights = read_checkpoint(str(tmp_path / 'work' / 'epoch_1.pth'))['state_dict']
    fused = read_checkpoint(str(file))
    for stage in ('stage1.0', 'stage4.1'):
        kernel = weights[f'backbone.{stage}.conv_branches.0.conv.weight']
        original = fused[f'{stage}.reparam_conv.weight']
        assert torch.nn.functional.cosine_similarity(kernel.flatten(), original.flatten(), dim=0) > 0.9


# --- files

def apple(state_dict):
    names = [('conv_branches.', 'rbr_conv.'), ('scale_branch.', 'rbr_scale.'), ('skip_branch.', 'rbr_skip.')]
    for ours, theirs in names:
        state_dict = {key.replace(ours, theirs): value for key, value in state_dict.items()}
    return state_dict | {'linear.weight': torch.zeros(10, 1024), 'linear.bias': torch.zeros(10)}


@pytest.fixture(scope='module')
def foreign(tmp_path_factory):
    file = tmp_path_factory.mktemp('foreign') / 'apple.pth'
    torch.manual_seed(0)
    torch.save(apple(randomize(MobileOne('s0')).state_dict()), file)
    return file


def test_convert(foreign, tmp_path):
    out = tmp_path / 'new' / 'ours.pth'
    result = python('tools/convert_checkpoint.py', foreign, out)
    assert "MobileOne 's0', train form" in result.stdout and 'linear.weight' in result.stdout
    ours = read_checkpoint(str(out))
    assert ours['meta']['arch'] == 's0' and ours['state_dict'].keys() == MobileOne('s0').state_dict().keys()
    MobileOne('s0').load_state_dict(ours['state_dict'])
    assert apple(ours['state_dict']).keys() == torch.load(foreign).keys()


CONVERT_ERRORS = [
    (lambda f, t: (f, t / 'out.pth', 's1'), "These are MobileOne 's0' weights, but the config says arch='s1'"),
    (lambda f, t: (f, f, None), 'OUT is SRC'),
    (lambda f, t: (t / 'nothing.pth', t / 'out.pth', None), "nothing.pth' does not exist"),
    (lambda f, t: (f, t / 'out.pth', 's9'), "Unknown arch 's9'"),
]


@pytest.mark.parametrize('arguments, message', CONVERT_ERRORS, ids=lambda v: v[:20] if isinstance(v, str) else None)
def test_convert_errors(arguments, message, foreign, tmp_path):
    source, out, arch = arguments(foreign, tmp_path)
    before = foreign.read_bytes()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert_checkpoint(source, out, arch)
    assert not (tmp_path / 'out.pth').exists() and foreign.read_bytes() == before


def test_other_channels_and_folders(foreign, tmp_path):
    torch.save(MobileOne('s0', in_channels=4).state_dict(), tmp_path / 'four.pth')
    for arch in (None, 's0'):
        assert convert_checkpoint(tmp_path / 'four.pth', tmp_path / 'out.pth', arch)['arch'] == 's0'
    with pytest.raises(DiskError, match='is a folder; name a file'):
        convert_checkpoint(foreign, tmp_path)


def test_convert_what_fits_no_arch(foreign, tmp_path):
    state_dict = torch.load(foreign)
    del state_dict['stage1.0.rbr_conv.0.conv.weight']
    torch.save(state_dict, tmp_path / 'part.pth')
    with pytest.raises(CheckpointError, match='fits none of s0, s1.*--arch'):
        convert_checkpoint(tmp_path / 'part.pth', tmp_path / 'out.pth')
    with pytest.raises(CheckpointError, match='missing: stage1.0.conv_branches.0.conv.weight'):
        convert_checkpoint(tmp_path / 'part.pth', tmp_path / 'out.pth', 's0')
    result = python('tools/convert_checkpoint.py', tmp_path / 'part.pth', tmp_path / 'out.pth', check=False)
    assert result.returncode == 1 and result.stderr.startswith('Error: ') and 'Traceback' not in result.stderr


def test_trust_is_said_explicitly(foreign, tmp_path):
    torch.save(dict(state_dict=torch.load(foreign), args=argparse.Namespace(lr=1)), tmp_path / 'more.pth')
    with pytest.raises(CheckpointError, match=r'argparse.Namespace.*was refused.*--trust'):
        convert_checkpoint(tmp_path / 'more.pth', tmp_path / 'out.pth')
    python('tools/convert_checkpoint.py', tmp_path / 'more.pth', tmp_path / 'out.pth', '--trust')
    MobileOne('s0').load_state_dict(read_checkpoint(str(tmp_path / 'out.pth'))['state_dict'])


def test_a_full_disk_leaves_what_was_there(foreign, tmp_path):
    """A limit on file size stands for it."""
    out = tmp_path / 'out.pth'
    out.write_bytes(b'precious')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(DiskError, match=r"Could not write '.*out\.pth': File too large"):
            convert_checkpoint(foreign, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert out.read_bytes() == b'precious' and [path.name for path in tmp_path.iterdir()] == ['out.pth']


def test_nothing_to_reparameterize(tmp_path, foreign):
    with pytest.raises(FileNotFoundError, match="Config 'nothing.py' does not exist"):
        deploy_checkpoint('nothing.py', foreign, tmp_path / 'out.pth')
    (tmp_path / 'config.py').write_text(
        "custom_imports = dict(imports=['mobileone_mm'])\nmodel = dict(type='ImgDataPreprocessor')\n")
    torch.save(dict(state_dict={}), tmp_path / 'empty.pth')
    with pytest.raises(ValueError, match='has no MobileOne, so there is nothing to reparameterize'):
        deploy_checkpoint(tmp_path / 'config.py', tmp_path / 'empty.pth', tmp_path / 'out.pth')


@pytest.mark.parametrize('config_deploy', [False, True])
@pytest.mark.parametrize('form', ['train', 'mixed', 'deploy', 'mmpretrain'])
def test_what_is_deployed_already_is_not_told_from_names_of_keys(form, config_deploy, tmp_path):
    model = randomize(MobileOne('s1')).eval()
    expected = reparameterize_model(model)
    if form == 'mixed':
        model.stage0.switch_to_deploy()
    weights = (model if form in ('train', 'mixed') else expected).state_dict()
    if form == 'mmpretrain':
        weights = {key: value for key, value in rename(weights, TO_MMPRETRAIN).items() if 'linear' not in key}
    torch.save(dict(state_dict=weights), tmp_path / 'source.pth')
    (tmp_path / 'config.py').write_text("custom_imports = dict(imports=['mobileone_mm'])\n"
                                        f"model = dict(type='MobileOne', arch='s1', deploy={config_deploy})\n")
    arguments = (tmp_path / 'config.py', tmp_path / 'source.pth', tmp_path / 'out.pth')
    if form in ('deploy', 'mmpretrain'):
        with pytest.raises(CheckpointError, match='in the deploy form already'):
            deploy_checkpoint(*arguments)
        return
    deploy_checkpoint(*arguments)
    torch.testing.assert_close(torch.load(tmp_path / 'out.pth')['state_dict'], dict(expected.state_dict()))
