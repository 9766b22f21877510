"""From the first iteration to a file, by the tools alone; on each mm line that they are run on."""
import json
import shutil

import pytest

from tests.support.paths import ROOT
from tests.support.runs import logged, only, python, scalars


@pytest.mark.slow
@pytest.mark.parametrize('kind, metric', [('detector', 'coco/bbox_mAP'), ('segmentor', 'mIoU')])
def test_train_resume_test_deploy_export_predict(kind, metric, shapes_root, tmp_path, request):
    config, trained = request.getfixturevalue(f'tiny_{kind}')  # for two epochs, with validation
    work = shutil.copytree(trained.parent, tmp_path / 'work')
    checkpoint, deploy, onnx = work / 'epoch_3.pth', tmp_path / 'deploy.pth', tmp_path / 'model.onnx'
    env = dict(SHAPES_ROOT=shapes_root, PYTHONPATH=ROOT)  # so with transformers, if installed: see support/absent
    python('tools/train.py', config, '--work-dir', work, '--resume', *only(**{'train_cfg.max_epochs': 3}), **env)
    steps = [row['step'] for row in scalars(work) if 'loss' in row]
    assert steps == list(range(1, 13))  # 16 images, 4 in a batch; none twice
    python('tools/reparameterize.py', config, checkpoint, deploy, **env)
    python('tools/export.py', config, checkpoint, '--format', 'onnx', '--out', onnx, **env)
    expected = logged(work, metric)
    for file, tolerance in ((checkpoint, 0), (deploy, 1e-3), (onnx, 1e-3)):
        out = tmp_path / f'test_{file.stem}'
        python('tools/test.py', config, file, '--work-dir', out, **env)
        assert logged(out, metric) == pytest.approx(expected, rel=tolerance, abs=tolerance)
        python('tools/predict.py', shapes_root / 'JPEGImages', config, file, '--out-dir', out / 'drawn', **env)
        answers = [json.loads(path.read_text(encoding='utf-8')) for path in (out / 'drawn' / 'preds').glob('*.json')]
        assert len(answers) == len(list((out / 'drawn' / 'vis').iterdir())) == 22
        assert all(answer.keys() & {'boxes', 'shares'} for answer in answers)
