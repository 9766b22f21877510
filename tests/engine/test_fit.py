"""Fused weights switch the model that tests them, whatever its config; weights are checked once."""
import copy

import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODEL_WRAPPERS, MODELS
from mmengine.runner import Runner

from mobileone_mm import MobileOne, MobileOneBlock, reparameterize_model
from mobileone_mm.checkpoint import fit as checkpoint_fit
from mobileone_mm.checkpoint import layouts
from mobileone_mm.engine import fit as engine_fit
from mobileone_mm.engine.trained import load_trained
from mobileone_mm.utils.errors import CheckpointError
from tests.support.layouts import TO_APPLE, TO_TIMM, rename
from tests.support.reference import randomize
from tests.support.training import ARCH, IMAGES, Mean, loader


class Subclass(MobileOne):
    """A user's subclass."""


class TwoBackbones(BaseModel):
    """A teacher and a student, each built as the config says."""

    def __init__(self, teacher, student, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.teacher, self.student = DETECTORS.build(teacher), DETECTORS.build(student)

    def forward(self, x, mode='tensor'):
        outputs = self.teacher(x)[-1].mean((1, 2, 3)) + 2 * self.student(x)[-1].mean((1, 2, 3))
        return dict(loss=outputs.square().mean()) if mode == 'loss' else outputs

    def test_step(self, data):
        return self(torch.stack(data)).tolist()

    val_step = test_step

    def train_step(self, data, optim_wrapper):
        losses = self(torch.stack(data), 'loss')
        optim_wrapper.update_params(losses['loss'])
        return losses


def config(kind=MobileOne):
    return dict(type=kind, arch=ARCH)


def make(kind=MobileOne):
    torch.manual_seed(0)
    return randomize(TwoBackbones(config(kind), config(kind)))


def make_runner(work_dir, checkpoint, model=None, hooks=(), **kwargs):
    test = dict(test_dataloader=loader(False), test_cfg=dict(), test_evaluator=[Mean()])
    return Runner(model or TwoBackbones(config(), config()), str(work_dir), load_from=str(checkpoint),
                  custom_hooks=[dict(type='CheckpointFitHook'), *hooks], experiment_name=work_dir.name, **test,
                  **kwargs)


def expected_mean(model):
    with torch.no_grad():
        return sum(model.eval()(torch.stack(IMAGES[i:i + 2])).mean().item() for i in (0, 2)) / 2


def deployed_checkpoint(path, model, fused=('teacher', 'student')):
    model = copy.deepcopy(model)
    for name in fused:
        reparameterize_model(getattr(model, name), inplace=True)
    torch.save(dict(state_dict=model.state_dict()), path)
    return path


@pytest.mark.parametrize('fused', [('teacher', ), ('teacher', 'student')])
def test_each_backbone_goes_its_own_way(fused, tmp_path):
    model = make()
    checkpoint = deployed_checkpoint(tmp_path / 'fused.pth', model, fused)
    runner = make_runner(tmp_path, checkpoint)
    assert runner.test()['mean'] == pytest.approx(expected_mean(model), rel=1e-5)
    assert [runner.model.teacher.deploy, runner.model.student.deploy] == ['teacher' in fused, 'student' in fused]


@pytest.mark.parametrize('kind', ['MobileOne', 'mmengine.MobileOne', 'mmdet.MobileOne', MobileOne, Subclass])
def test_however_the_config_names_it(kind, tmp_path):
    model = make()
    runner = make_runner(tmp_path, deployed_checkpoint(tmp_path / 'fused.pth', model),
                         TwoBackbones(config(kind), config(kind)))
    assert runner.test()['mean'] == pytest.approx(expected_mean(model), rel=1e-5)
    assert runner.model.teacher.deploy and runner.model.student.deploy


def test_a_checkpoint_named_by_url(tmp_path, monkeypatch):
    """From the hub's cache, because the test has no network."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)
    model = make()
    deployed_checkpoint(tmp_path / 'hub' / 'checkpoints' / 'fused.pth', model)
    runner = make_runner(tmp_path, 'https://example.invalid/fused.pth')
    assert runner.test()['mean'] == pytest.approx(expected_mean(model), rel=1e-5)


def test_with_an_averaged_model(tmp_path):
    """EMAHook tests a copy of the model, which goes to the deploy form as well."""
    model = make()
    runner = make_runner(tmp_path, deployed_checkpoint(tmp_path / 'fused.pth', model),
                         hooks=[dict(type='EMAHook', update_buffers=True)])
    assert runner.test()['mean'] == pytest.approx(expected_mean(model), rel=1e-5)


@pytest.mark.parametrize('priority', ['HIGHEST', 'VERY_LOW'])
def test_with_an_averaged_model_of_any_priority(priority, tmp_path):
    model = make()
    runner = make_runner(tmp_path, deployed_checkpoint(tmp_path / 'fused.pth', model),
                         hooks=[dict(type='EMAHook', update_buffers=True, priority=priority)])
    assert runner.test()['mean'] == pytest.approx(expected_mean(model), rel=1e-5)


def test_blocks_of_both_forms_and_blocks_outside_of_a_backbone(tmp_path):
    """Only the blocks with fused weights are switched, also where the model's own weights would not fold."""
    model = make()
    model.neck = randomize(MobileOneBlock(8, 8, 3))
    expected = expected_mean(model)
    saved = copy.deepcopy(model)
    for block in (saved.teacher.stage0, saved.student.stage2[1], saved.neck):
        block.switch_to_deploy()
    torch.save(dict(state_dict=saved.state_dict()), tmp_path / 'mixed.pth')
    target = TwoBackbones(config(), config())
    target.neck = MobileOneBlock(8, 8, 3)
    target.teacher.stage0.conv_branches[0].conv.weight.data.fill_(float('nan'))
    runner = make_runner(tmp_path, tmp_path / 'mixed.pth', target)
    assert runner.test()['mean'] == pytest.approx(expected, rel=1e-5)
    assert {name for name, block in target.named_modules() if isinstance(block, MobileOneBlock) and block.deploy} == {
        'teacher.stage0', 'student.stage2.1', 'neck'}
    torch.testing.assert_close(target.neck.reparam_conv.weight, saved.neck.reparam_conv.weight)


def test_modules_of_two_names(tmp_path):
    """Tied modules stand in a state dict by both of their names."""
    model = make()
    model.student = model.teacher
    path = deployed_checkpoint(tmp_path / 'fused.pth', model, ('teacher', ))
    target = TwoBackbones(config(), config())
    target.student = target.teacher
    assert make_runner(tmp_path, path, target).test()['mean'] == pytest.approx(expected_mean(model), rel=1e-5)


def test_a_training_layout_for_a_config_of_the_deploy_form_is_checked_once(counts, tmp_path):
    model = make()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'train.pth')
    target = TwoBackbones(*[config() | dict(deploy=True)] * 2)
    make_runner(tmp_path, tmp_path / 'train.pth', target).test()
    assert counts == dict(read=1, translate=2, fit=2)


def test_a_refused_checkpoint_leaves_the_model_as_it_was(tmp_path):
    path = deployed_checkpoint(tmp_path / 'fused.pth', make())
    checkpoint = torch.load(path)
    checkpoint['state_dict']['student.stage1.0.reparam_conv.bias'][0] = float('nan')
    torch.save(checkpoint, path)
    runner = make_runner(tmp_path, path)
    before = copy.deepcopy(runner.model.state_dict())
    with pytest.raises(CheckpointError, match='NaN'):
        runner.test()
    torch.testing.assert_close(runner.model.state_dict(), before)


def test_fused_weights_after_a_training_are_for_a_test(tmp_path):
    model = make()
    runner = Runner(TwoBackbones(config(), config()), str(tmp_path), custom_hooks=[dict(type='CheckpointFitHook')],
                    train_dataloader=loader(True), train_cfg=dict(by_epoch=True, max_epochs=1),
                    optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-5)), test_dataloader=loader(False),
                    test_cfg=dict(), test_evaluator=[Mean()], experiment_name='trained')
    runner.train()
    returned = runner.load_checkpoint(str(deployed_checkpoint(tmp_path / 'fused.pth', model)))
    assert runner.test()['mean'] == pytest.approx(expected_mean(model), rel=1e-5)
    assert 'checked' not in str(returned['state_dict']._metadata)  # the note does not travel with the weights
    with pytest.raises(CheckpointError, match='has tested fused weights'):
        runner.train()


def test_under_ddp(tmp_path, monkeypatch):
    """One gloo process, in mmengine's wrapper."""
    for key, value in dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(29400 + hash(tmp_path) % 500), RANK='0',
                           WORLD_SIZE='1').items():
        monkeypatch.setenv(key, value)
    torch.distributed.init_process_group('gloo')
    try:
        model = make()
        wrapper = dict(type='MMDistributedDataParallel', device_ids=None)
        runner = make_runner(tmp_path, deployed_checkpoint(tmp_path / 'fused.pth', model), cfg=Config(dict(
            model_wrapper_cfg=wrapper)), launcher='none')
        runner.model = MODEL_WRAPPERS.build(wrapper | dict(module=runner.model))
        assert runner.test()['mean'] == pytest.approx(expected_mean(model), rel=1e-5)
        assert runner.model.module.teacher.deploy
    finally:
        torch.distributed.destroy_process_group()


def test_a_training_refuses_them(tmp_path):
    runner = make_runner(tmp_path, deployed_checkpoint(tmp_path / 'fused.pth', make()), train_dataloader=loader(True),
                         train_cfg=dict(by_epoch=True, max_epochs=1),
                         optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))
    with pytest.raises(CheckpointError, match=r'Got fused .* train form.*expand=True'):
        runner.train()
    assert not runner.model.teacher.deploy


def test_a_training_after_a_test_of_them_is_refused(tmp_path):
    runner = make_runner(tmp_path, deployed_checkpoint(tmp_path / 'fused.pth', make()), train_dataloader=loader(True),
                         train_cfg=dict(by_epoch=True, max_epochs=1),
                         optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))
    runner.test()
    with pytest.raises(CheckpointError, match='has tested fused weights.* Build a new Runner'):
        runner.train()


def test_weights_without_one_of_the_backbones(tmp_path):
    weights = {key: value for key, value in make().state_dict().items() if key.startswith('student')}
    torch.save(dict(state_dict=weights), tmp_path / 'half.pth')
    with pytest.raises(CheckpointError, match=r"no weights of a MobileOne below 'teacher\.'"):
        make_runner(tmp_path, tmp_path / 'half.pth').test()


# --- once

@pytest.fixture
def counts(monkeypatch):
    """How often weights are read, translated, and checked to fit and to be finite."""
    counted = dict.fromkeys(('read', 'translate', 'fit'), 0)

    def count(name, modules, attribute):
        function = getattr(modules[0], attribute)

        def counting(*args, **kwargs):
            counted[name] += 1
            return function(*args, **kwargs)

        for module in modules:
            monkeypatch.setattr(module, attribute, counting)

    from mobileone_mm.checkpoint import expand
    count('read', [torch], 'load')
    count('translate', [layouts, checkpoint_fit, engine_fit, expand], 'translate_state_dict')
    count('fit', [checkpoint_fit, engine_fit, expand], 'check_fit')
    return counted


@pytest.mark.parametrize('fused', [(), ('teacher', 'student')])
def test_a_test_goes_through_its_weights_once(fused, counts, tmp_path):
    checkpoint = deployed_checkpoint(tmp_path / 'fused.pth', make(), fused)
    make_runner(tmp_path, checkpoint).test()
    assert counts == dict(read=1, translate=2, fit=2)  # two backbones


@pytest.mark.parametrize('fused', [False, True])
def test_the_apis_go_through_them_once(fused, counts, tmp_path):
    MODELS.register_module(name='OneBackbone', module=OneBackbone, force=True)
    cfg = Config(dict(model=dict(type='OneBackbone'), default_scope='mmengine'))
    torch.save(dict(state_dict=(reparameterize_model if fused else copy.deepcopy)(OneBackbone()).state_dict()),
               tmp_path / 'one.pth')
    model, _ = load_trained(cfg, tmp_path / 'one.pth')
    assert counts == dict(read=1, translate=1, fit=1) and model.backbone.deploy == fused


class OneBackbone(BaseModel):

    def __init__(self):
        super().__init__()
        self.backbone = MobileOne(ARCH)

    def forward(self, x, mode='tensor'):
        return self.backbone(x)


@pytest.mark.parametrize('table', [TO_APPLE, TO_TIMM])
@pytest.mark.parametrize('expand', [False, True])
def test_pretrained_weights_are_gone_through_once(table, expand, counts, tmp_path):
    source = MobileOne('s0', deploy=expand)
    torch.save(dict(state_dict=rename(source.state_dict(), table)), tmp_path / 'foreign.pth')
    model = MobileOne('s0', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'foreign.pth'), expand=expand))
    model.init_weights()
    assert counts == dict(read=1, translate=1, fit=1)


@pytest.mark.parametrize('change, message', [
    (lambda weights, key: weights.pop(key), 'missing'),
    (lambda weights, key: weights.update({key: weights[key][:1]}), 'of another shape')])
def test_weights_that_are_changed_on_the_way_are_checked_again(change, message):
    """By a hook that runs after the check, say."""
    model = make()
    fitted = engine_fit.fit_model(model.state_dict(), model, switches=False)
    change(fitted, 'teacher.stage0.scale_branch.bn.weight')
    with pytest.raises(CheckpointError, match=message):
        model.load_state_dict(fitted)


def test_the_note_does_not_hold_for_another_arch():
    """S1, S2 and S3 have the same keys; without this, their weights would load in part, without a word."""
    fitted = engine_fit.fit_model(MobileOne('s1').state_dict(), MobileOne('s1'), switches=False)
    with pytest.raises(CheckpointError, match="MobileOne 's1' weights"):
        MobileOne('s2').load_state_dict(fitted, strict=False)


def test_the_block_alone_says_so_too():
    fused = MobileOneBlock(8, 8, 3, deploy=True).state_dict()
    with pytest.raises(CheckpointError, match='train form'):
        MobileOneBlock(8, 8, 3).load_state_dict(fused)
