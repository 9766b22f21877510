"""What used to end in a traceback late in a run, or to pass without a word, is said in one line at the start."""
import pytest
import torch

from mobileone_mm.apis.test_options import prepare_test
from mobileone_mm.apis.train_options import prepare_train
from mobileone_mm.utils.errors import ConfigError, MissingFileError
from tests.support import tiny


@pytest.fixture
def segmentor(tmp_path, monkeypatch, shapes_root):
    monkeypatch.setenv('SHAPES_ROOT', str(shapes_root))
    return tiny.write_config(tmp_path, tiny.SEGMENTOR)


def prepared(config, work_dir, **options):
    return prepare_train(config, work_dir=work_dir, cfg_options=options)


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
