"""Slips in configs and in --cfg-options end in one line, or in a warning, that names the entry and what was meant."""
import re

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

from mobileone_mm.apis import launch
from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.apis.train_options import prepare_train
from mobileone_mm.datasets.check import check_data
from mobileone_mm.deploy.wrappers import input_shape
from mobileone_mm.engine.build_errors import explained_build_errors
from mobileone_mm.engine.config import read_config
from mobileone_mm.engine.overrides import override
from mobileone_mm.utils.errors import ConfigError, MissingDataError
from tests.support import tiny
from tests.support.runs import python


@pytest.fixture
def segmentor(tmp_path, monkeypatch, shapes_root):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    return tiny.write_config(tmp_path, tiny.SEGMENTOR)


@pytest.fixture
def detector(tmp_path, monkeypatch, shapes_root):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    return tiny.write_config(tmp_path, tiny.DETECTOR)


# --- what is built from a config

@pytest.mark.parametrize('options, message', [
    ({'model.backbone.archh': 's0'},
     r"model\.backbone \(MobileOne\) takes no 'archh'\. Did you mean 'arch'\? It takes arch, in_channels, .*init_cfg"),
    ({'model.decode_head.dilation': 6},  # which goes through three constructors
     r"model\.decode_head \(\w+\) takes no 'dilation'\. Did you mean 'dilations'\?.* num_classes"),
    ({'model.backbon.arch': 's0'}, r"model \(EncoderDecoder\) takes no 'backbon'\. Did you mean 'backbone'\?"),
    ({'model.backbone.type': 'MobilOne'}, r"model\.backbone\.type: \w+ has no model 'MobilOne'\..*MobileOne"),
    ({'train_dataloader.num_worker': 2}, r"train_dataloader \(DataLoader\) takes no 'num_worker'\. .*num_workers"),
    ({'train_dataloader.dataset.pipeline.2.scales': 3}, r"_dataloader.*\.pipeline\.2 \(Resize\) takes no 'scales'"),
    ({'val_dataloader.sampler.shufle': True}, r"val_dataloader\.sampler \(DefaultSampler\) takes no 'shufle'"),
    ({'train_cfg.max_epoch': 3}, r"train_cfg \(EpochBasedTrainLoop\) takes no 'max_epoch'\. .*'max_epochs'\?"),
    ({'optim_wrapper.optimizer.learning_rate': 3}, r"\.optimizer \(AdamW\) takes no 'learning_rate'\. It takes lr"),
    ({'optim_wrapper.optimizer.type': 'AdmW'}, r"optim_wrapper\.optimizer\.type: .* has no optimizer 'AdmW'.* AdamW"),
    ({'param_scheduler.0.gama': 3}, r"param_scheduler\.0 \(ConstantLR\) takes no 'gama'"),
    ({'default_hooks.checkpoint.max_kep_ckpts': 3},  # which mmengine would only refuse when it saves
     r"default_hooks\.checkpoint \(CheckpointHook\) takes no 'max_kep_ckpts'\. Did you mean 'max_keep_ckpts'\?"),
    ({'default_hooks.logger.intervall': 3}, r"default_hooks\.logger \(LoggerHook\) takes no 'intervall'"),
    ({'val_evaluator.type': 'IouMetric'}, r"val_evaluator\.type: .* has no metric 'IouMetric'\. .*IoUMetric"),
    ({'visualizer.alfa': 1, 'visualizer.name': 'own'}, r"visualizer \(SegLocalVisualizer\) takes no 'alfa'.*alpha"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_an_argument_that_a_class_does_not_take(options, message, segmentor, tmp_path):
    cfg = prepare_train(segmentor, work_dir=str(tmp_path / 'work'), cfg_options=options)
    with pytest.raises(ConfigError, match=message):
        launch.train(cfg)


def test_an_argument_that_is_missing(segmentor, tmp_path):
    cfg = prepare_train(segmentor, work_dir=str(tmp_path))
    del cfg.model.decode_head.num_classes
    with pytest.raises(ConfigError, match=r'model\.decode_head \(\w+\) needs num_classes, which is not set\.'):
        launch.train(cfg)


@MODELS.register_module()
class Own:
    """A user's class with a fault of its own, which is no slip in the config."""

    def __init__(self, way, **kwargs):
        getattr(self, way)(**kwargs)

    def by_another_class(self, arch):
        Own.Inner(arch=arch)

    def by_a_method(self, **kwargs):
        self.taking_nothing(**kwargs)

    def by_a_key(self, **kwargs):
        raise KeyError('arch')

    def by_building(self, arch):
        MODELS.build(dict(type='Own', way='by_a_key', other=arch, unknown=1))

    def by_a_part_of_its_own(self, arch):
        MODELS.build(dict(type='MobileOne', other=arch))

    def taking_nothing(self):
        pass

    class Inner:
        pass


@pytest.mark.parametrize('way', [name for name in vars(Own) if name.startswith('by_')])
def test_faults_of_users_own_code_stay(way):
    cfg = Config(dict(model=dict(type='Own', way=way, arch='s0')))
    with pytest.raises((TypeError, KeyError)) as raised, explained_build_errors(cfg):
        MODELS.build(cfg.model)
    assert not isinstance(raised.value, ConfigError)


def test_a_tool_says_it_in_one_line(tiny_segmentor, tmp_path, shapes_root):
    config, checkpoint = tiny_segmentor
    option = ['--cfg-options', 'model.backbone.archh=s0', 'optim_wraper.optimizer.lr=0.1']
    for command in (['tools/train.py', config, '--work-dir', tmp_path],
                    ['tools/export.py', config, checkpoint, '--out', tmp_path / 'a.onnx']):
        result = python(*command, *option, check=False, SHAPES_ROOT=shapes_root)
        output = result.stdout + result.stderr
        assert result.returncode == 1 and 'Traceback' not in output, output[-3000:]
        assert "Error: model.backbone (MobileOne) takes no 'archh'. Did you mean 'arch'?" in result.stderr
        assert "the config has no 'optim_wraper' so far" in output and 'Did you mean optim_wrapper?' in output


# --- --cfg-options

@pytest.mark.parametrize('option, message', [
    ('train_dataloader.dataset.pipeline.5.scale',
     r'train_dataloader\.dataset\.pipeline is a list of 5, so its entries are '
     r"train_dataloader\.dataset\.pipeline\.0 to train_dataloader\.dataset\.pipeline\.4, got '5'"),
    ('train_dataloader.dataset.pipeline.Resize.scale', 'is a list of 5, .*got \'Resize\''),
    ('param_scheduler.-1.factor', "is a list of 1, .*got '-1'"),
    ('custom_imports.imports.0', r'single entries of a list can only be set .* are dicts\. Give the whole list'),
    ('train_dataloader.dataset.pipeline.2.scale.0', r'pipeline\.2\.scale is \(.*\), which has no settings'),
    ('load_from.path', r'load_from is None, which has no settings'),
])
def test_an_option_without_a_place(option, message, segmentor):
    with pytest.raises(ConfigError, match=message):
        read_config(segmentor, {option: 3})


@pytest.mark.parametrize('option, warning', [
    ('model.backbon.arch', r"model has no 'backbon' so far, so model\.backbon is new.* Did you mean model\.backbone\?"),
    ('optim_wraper.optimizer.lr', r"the config has no 'optim_wraper' so far.* Did you mean optim_wrapper\?"),
    ('rndomness', r"has no 'rndomness' so far.* Did you mean randomness\?"),
    ('train_dataloader.dataset.pipeline.2.a.b', r"train_dataloader\.dataset\.pipeline\.2 has no 'a'"),
    ('model.backbone.frozen_stages', None), ('find_unused_parameters', None), ('experiment_name', None),
    ('model_wrapper_cfg.type', None), ('train_dataloader.dataset.pipeline.2.backend', None)])
def test_an_option_that_is_new(option, warning, segmentor, capsys):
    cfg = read_config(segmentor)
    capsys.readouterr()
    override(cfg, {option: 3})
    output = ''.join(capsys.readouterr())
    assert re.search(warning, output) if warning else 'so far' not in output


def test_an_entry_that_is_made_anew(segmentor, capsys):
    """As with ``_delete_`` in a config file: what was there is gone, be it a text or None."""
    cfg = read_config(segmentor)
    capsys.readouterr()
    for entry in ('model.backbone.type', 'load_from', 'model.decode_head'):
        override(cfg, {f'{entry}._delete_': True, f'{entry}.type': 'Other', f'{entry}.size': (1, 2)})
        assert cfg.get(entry.partition('.')[0]) and 'so far' not in ''.join(capsys.readouterr())
    assert cfg.load_from == cfg.model.backbone.type == cfg.model.decode_head == dict(type='Other', size=(1, 2))
    override(cfg, {'model.neck._delete_': True, 'model.neck.type': 'New'})
    assert cfg.model.neck == dict(type='New') and 'so far' not in ''.join(capsys.readouterr())
    override(cfg, {'model.bakbone.arch._delete_': True, 'model.bakbone.arch.num_blocks': 1})
    assert "model has no 'bakbone' so far" in ''.join(capsys.readouterr())
    for key, message in (('param_scheduler.7', 'is a list of 1'), ('param_scheduler.0', 'Give the whole list'),
                         ('default_scope.x', 'which has no settings')):
        with pytest.raises(ConfigError, match=message):
            override(cfg, {f'{key}._delete_': True})


# --- single settings

@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_without_workers(split, tiny_segmentor, tmp_path, monkeypatch, shapes_root):
    """What torch refuses without workers is left out, as there is nothing for it to do."""
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    options = {f'{split}_dataloader.{key}': value for key, value in dict(
        num_workers=0, persistent_workers=True, prefetch_factor=2, timeout=3).items()}
    if split == 'test':
        launch.test(prepare_test(*tiny_segmentor, work_dir=str(tmp_path), cfg_options=options))
    else:
        launch.train(prepare_train(tiny_segmentor[0], work_dir=str(tmp_path),
                                   cfg_options=options | {'train_cfg.max_epochs': 1}))


def test_auto_scale_lr_of_none(segmentor, tmp_path):
    with pytest.raises(ConfigError, match=r'--auto-scale-lr needs auto_scale_lr=dict\(base_batch_size=\.\.\.\)'):
        prepare_train(segmentor, work_dir=str(tmp_path), auto_scale_lr=True, cfg_options=dict(auto_scale_lr=None))


def test_a_list_of_evaluators_with_out(tiny_segmentor, tmp_path, shapes_root):
    config, checkpoint = tiny_segmentor
    several = tmp_path / 'several.py'
    several.write_text(f"_base_ = r'{config}'\ntest_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']),\n"
                       "                  dict(type='IoUMetric', iou_metrics=['mDice'], prefix='dice')]\n")
    python('tools/test.py', several, checkpoint, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'masks',
           SHAPES_ROOT=shapes_root)
    assert len(list((tmp_path / 'masks').glob('*.png'))) == 6


@pytest.mark.parametrize('options, arguments, message', [
    (dict(test_evaluator=None), dict(out='masks'), 'need test_evaluator, which is None'),
    (dict(test_evaluator=[dict(type='A'), dict(type='B')]), dict(out='masks'), '--out needs one of IoUMetric'),
    (dict(default_hooks=None), dict(show_dir='shown'), r'need default_hooks\.visualization'),
    (dict(visualizer=None), dict(show_dir='shown'), '--show-dir needs a visualizer')])
def test_options_of_a_test_without_what_they_need(options, arguments, message, tiny_segmentor, tmp_path):
    with pytest.raises(ConfigError, match=message):
        prepare_test(*tiny_segmentor, work_dir=str(tmp_path), cfg_options=options, **arguments)


def test_a_resize_to_one_number(detector):
    """mmcv takes it for both sides, and so does an export."""
    assert input_shape(read_config(detector, {'test_dataloader.dataset.pipeline.1.scale': 96})) == (96, 96)


def test_imagenet_with_a_split_and_a_folder(tmp_path):
    """The folder is the one that mmpretrain takes, which need not have the split's name."""
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'a.jpg').write_text('an image')
    for folder in ('images', dict(img_path='images')):
        dataset = dict(type='ImageNet', data_root=str(tmp_path), split='val', data_prefix=folder)
        cfg = Config(dict(val_dataloader=dict(dataset=dataset), default_scope='mmpretrain'))
        with pytest.raises(MissingDataError, match='1000 folders such as n01440764 in .*/images, which has 0'):
            check_data(cfg, ('val', ))
        (tmp_path / 'meta').mkdir(exist_ok=True)
        (tmp_path / 'meta' / 'val.txt').write_text('a.jpg 3\n')
        check_data(cfg, ('val', ))
        (tmp_path / 'meta' / 'val.txt').unlink()


# --- under slurm

@pytest.mark.parametrize('rank', [0, 1])
def test_one_process_of_slurm_says_it(rank, tmp_path):
    result = python('tools/train.py', tmp_path / 'nothing.py', '--launcher', 'slurm', check=False, SLURM_PROCID=rank)
    assert result.returncode == 1 and result.stderr.count('nothing.py') == 1 - rank
