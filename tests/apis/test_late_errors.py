"""What used to end in a traceback late in a run, or to pass without a word, is said in one line at the start."""
import pytest
import torch
from mmengine.config import Config

from mobileone_mm.apis import launch
from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.apis.train_options import prepare_train
from mobileone_mm.datasets.shapes import make_shapes
from mobileone_mm.utils.errors import ArgumentError, ConfigError, MissingFileError
from tests.support import tiny


@pytest.fixture
def segmentor(tmp_path, monkeypatch, shapes_root):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    return tiny.write_config(tmp_path, tiny.SEGMENTOR)


def prepared(config, work_dir, **options):
    return prepare_train(config, work_dir=work_dir, cfg_options=options)


def log_of(work_dir):
    return next(work_dir.glob('*/*.log')).read_text(encoding='utf-8')


def test_load_from_that_is_no_file(segmentor, tmp_path):
    with pytest.raises(MissingFileError, match=r"Checkpoint 'nothere\.pth' of load_from does not exist"):
        prepared(segmentor, tmp_path / 'work', load_from='nothere.pth')
    with pytest.raises(MissingFileError, match='of load_from is a folder'):
        prepared(segmentor, tmp_path / 'work', load_from=str(tmp_path))
    assert prepared(segmentor, tmp_path / 'work', load_from='https://a.b/c.pth').load_from == 'https://a.b/c.pth'


def test_checkpoints_of_an_earlier_run(segmentor, tmp_path, capsys):
    prepared(segmentor, tmp_path / 'work')
    assert 'earlier run' not in capsys.readouterr().err
    torch.save({}, tmp_path / 'work' / 'epoch_1.pth')
    prepared(segmentor, tmp_path / 'work')
    assert f"'{tmp_path}/work' holds checkpoints of an earlier run (epoch_1.pth)" in capsys.readouterr().err
    prepare_train(segmentor, work_dir=tmp_path / 'work', resume='auto')
    assert 'earlier run' not in capsys.readouterr().err


@pytest.mark.parametrize('options, message', [
    (dict(val_evaluator=None), 'val_dataloader and val_cfg of the config need val_evaluator, which is None'),
    (dict(test_evaluator=None), 'test_dataloader and test_cfg of the config need test_evaluator, which is None'),
    (dict(test_evaluator=None, test_cfg=None), 'test_dataloader of the config needs test_cfg and test_evaluator, '),
    (dict(optim_wrapper=None), 'train_dataloader and train_cfg of the config need optim_wrapper'),
    ({'train_dataloader.dataset': None}, 'train_dataloader has no dataset')])
def test_a_part_that_is_none(options, message, segmentor, tmp_path):
    with pytest.raises(ConfigError, match=message):
        prepared(segmentor, tmp_path / 'work', **options)


def test_a_part_of_testing_that_is_none(segmentor, tmp_path):
    torch.save({}, tmp_path / 'a.pth')
    for options, message in ((dict(test_evaluator=None), 'need test_evaluator, which is None'),
                             ({'test_dataloader.dataset': None}, 'test_dataloader has no dataset')):
        with pytest.raises(ConfigError, match=message):
            prepare_test(segmentor, tmp_path / 'a.pth', work_dir=tmp_path / 'work', cfg_options=options)


def test_a_seed_below_zero(tmp_path):
    with pytest.raises(ArgumentError, match='The seed must be at least 0, got -1'):
        make_shapes(tmp_path / 'shapes', 1, 1, seed=-1)


def test_a_type_in_other_capitals(segmentor, tmp_path):
    cfg = prepared(segmentor, tmp_path / 'work', **{'optim_wrapper.optimizer.type': 'sgd'})
    with pytest.raises(ConfigError, match=r"has no optimizer 'sgd'\. Did you mean .*\bSGD\b"):
        launch.train(cfg)


def test_an_argument_that_a_metric_drops(segmentor, tmp_path):
    launch.build_runner(prepared(segmentor, tmp_path / 'a', **{
        'val_evaluator.iou_metric': 'mIoU', 'test_evaluator.keep_results': True}))
    log = log_of(tmp_path / 'a')
    assert "val_evaluator (IoUMetric) ignores 'iou_metric', which it does not know. Did you mean 'iou_metrics'?" in log
    assert 'keep_results' not in log.split('ignores')[1].split('.')[0]


def test_a_best_metric_that_does_not_exist(segmentor, tmp_path):
    """Nothing is lost, also where no checkpoint is due yet."""
    options = {'default_hooks.checkpoint.save_best': 'mIOU', 'default_hooks.checkpoint.interval': 2}
    with pytest.raises(ConfigError, match=r"save_best is 'mIOU'.* Did you mean 'mIoU'\? It gives aAcc, mIoU, mAcc.*"
                                          r"epoch_1\.pth' is complete"):
        launch.train(prepared(segmentor, tmp_path / 'work', **options))
    options['default_hooks.checkpoint.save_best'] = 'mIoU'
    launch.train(prepare_train(segmentor, work_dir=tmp_path / 'work', resume='auto', cfg_options=options))
    names = {path.name for path in (tmp_path / 'work').glob('*.pth')}
    assert {'epoch_1.pth', 'epoch_2.pth', 'best_mIoU_epoch_2.pth'} <= names


class Images:
    """A dataset of images in two folders."""

    def __init__(self, *paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        return dict(img_path=self.paths[index])


@pytest.mark.parametrize('cfg, told', [
    (dict(test_evaluator=dict(type='IoUMetric', output_dir='out')), True),
    (dict(default_hooks=dict(visualization=dict(test_out_dir='out'))), True),
    (dict(default_hooks=dict(visualization=dict(enable=True, out_dir='out'))), True), (dict(), False)], ids=str)
def test_images_of_equal_names(cfg, told, monkeypatch):
    lines = []
    monkeypatch.setattr(launch, 'warn', lines.append)
    launch._warn_of_equal_names(Config(cfg), Images('a/1.jpg', 'b/2.jpg', 'b/3.jpg'))
    assert not lines
    launch._warn_of_equal_names(Config(cfg), Images('a/1.jpg', 'b/1.jpg', 'b/2.jpg'))
    assert bool(lines) == told
    if told:
        assert "3 images have 2 different names" in lines[0] and "'out'" in lines[0] and 'here of 1.' in lines[0]


@pytest.mark.parametrize('options, message', [
    ({'train_dataloader.dataset.pipeline.3.prob': 2.0}, r'pipeline\.3 \(RandomFlip\) refuses a value: .*prob'),
    ({'optim_wrapper.optimizer.lr': '1e-3x'}, r"optim_wrapper\.optimizer \(\w+\) refuses a value: '<=' not supported"),
    ({'train_dataloader.batch_size': 0}, r'train_dataloader.* refuses a value: .*batch_size=0'),
])
def test_a_value_that_is_refused(options, message, segmentor, tmp_path):
    cfg = prepared(segmentor, tmp_path / 'work', **options)
    with pytest.raises(ConfigError, match=message):
        launch.train(cfg)
