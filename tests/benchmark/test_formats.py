"""All formats of a trained model in one table: equal metrics, reasons, and files that agree; no timing is asserted."""
import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mobileone_mm.benchmark.formats import Variant, compare_formats, to_row
from mobileone_mm.benchmark.timing import measure
from mobileone_mm.benchmark.trained_model import Score
from mobileone_mm.deploy.formats import FORMATS
from mobileone_mm.utils.errors import ArgumentError, MissingFileError, WorkerError
from tests.support.formats import require
from tests.support.paths import ROOT
from tests.support.runs import logged, python

TOOL = 'tools/compare_formats.py'
QUICK = ['--rounds', 2, '--warmup', 0, '--threads', 1]


@pytest.fixture(scope='session')
def stand_ins(tmp_path_factory):
    """A PYTHONPATH with an MNN that is not installed, and an openvino that ends the process."""
    folder = tmp_path_factory.mktemp('stand_ins')
    (folder / 'MNN.py').write_text('raise ImportError("no MNN")')
    (folder / 'openvino.py').write_text('import os\nos.abort()')
    return f'{folder}{os.pathsep}{ROOT}'


def check_files(folder, screen):
    """Screen, Markdown, CSV and JSON agree, and the plot is an image; returns the JSON, and its rows by their names."""
    report = json.loads((folder / 'formats.json').read_text())
    with open(folder / 'formats.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    text = (folder / 'formats.md').read_text()
    tables = [[cell.strip() for cell in line.split(bar)[1:-1]] for lines, bar in ((screen, '│'), (text, '|'))
              for line in lines.splitlines() if line.startswith(bar)]
    for row, expected in zip(rows, report['rows'], strict=True):
        assert row == {key: '' if value is None else str(value) for key, value in expected.items() if key != 'times_ms'}
        cells = [cells for cells in tables if cells[0] == expected['model']]
        assert len(cells) == 2 and cells[0] == cells[1]
        numbers = ['-' if value is None else f'{value:{digits}}' for value, digits in (
            (expected['metric'], '.3f'), (expected['median_ms'], '.2f'), (expected['p95_ms'], '.2f'))]
        assert cells[0][-3:] == numbers
        assert len(expected['times_ms']) == (0 if expected['median_ms'] is None else report['settings']['rounds'])
        assert all(f'{expected["model"]}: {expected["reason"]}' in lines for lines in (screen, text)) \
            or not expected['reason']
    assert (folder / 'formats.png').read_bytes().startswith(b'\x89PNG')
    return report, {row['model']: row for row in report['rows']}


def test_a_detector(tiny_detector, shapes_root, stand_ins, tmp_path):
    require('ncnn')
    screen = python(TOOL, *tiny_detector, '--formats', 'torchscript', 'ncnn', 'mnn', 'openvino', *QUICK,
                    '--out-dir', tmp_path, SHAPES_ROOT=shapes_root, PYTHONPATH=stand_ins).stdout
    report, rows = check_files(tmp_path, screen)
    assert list(rows) == ['PyTorch', 'TorchScript', 'ncnn', 'MNN', 'OpenVINO']
    assert report['settings']['metric'] == 'coco/bbox_mAP' and report['settings']['images'] == 6
    trained = logged(tiny_detector[1].parent, 'coco/bbox_mAP')['coco/bbox_mAP']
    for name in ('PyTorch', 'TorchScript', 'ncnn'):
        assert rows[name]['metric'] == trained
        assert rows[name]['boxes_difference'] < 0.01 and rows[name]['scores_difference'] < 1e-4
        assert rows[name]['size_mib'] > 0.1 and rows[name]['median_ms'] > 0
        assert not rows[name]['reason']
    assert "pip install 'mobileone_mm[export-mnn]'" in rows['MNN']['reason'] and rows['MNN']['size_mib'] is None
    assert 'ended by SIGABRT' in rows['OpenVINO']['reason'] and rows['OpenVINO']['metric'] is None
    assert f'ncnn {report["versions"]["ncnn"]}' in ' '.join(screen.split()) and 'MNN' not in report['versions']
    assert {path.name for path in (tmp_path / 'files').iterdir()} == {
        'torchscript.pt', 'ncnn.param', 'ncnn.bin', 'ncnn.json'}


def test_a_row_of_what_happened():
    """numpy's numbers become Python's, and a file that fails while it is timed has no latency, but its reason."""

    def fail():
        raise WorkerError('gone')

    variant = Variant('ncnn', 'ncnn', size=2**20, score=Score({'aAcc': 1., 'mIoU': np.float32(12.96)}, 1, 'a.jpg'),
                      timer=fail)
    measure([variant], rounds=2, warmup=1)
    row = to_row(variant, 'mIoU', '1x3x8x8', ['logits'])
    assert json.loads(json.dumps(row)) == row
    assert row['metric'] == 12.96 and row['size_mib'] == 1 and row['reason'] == 'latency: gone'
    assert row['median_ms'] is row['p95_ms'] is row['logits_difference'] is None and row['times_ms'] == []


@pytest.mark.slow
def test_all_formats_of_a_segmentor(tiny_segmentor, shapes_root, tmp_path):
    screen = python(TOOL, *tiny_segmentor, '--int8', shapes_root / 'JPEGImages', *QUICK, '--out-dir', tmp_path,
                    SHAPES_ROOT=shapes_root).stdout
    _, rows = check_files(tmp_path, screen)
    int8 = [each.title for each in FORMATS.values() if 'int8' not in each.refuses]
    assert [row for row in rows if row.endswith(' int8')] == [f'{title} int8' for title in int8]
    trained = logged(tiny_segmentor[1].parent, 'mIoU')['mIoU']
    assert rows['PyTorch']['metric'] == pytest.approx(trained, abs=1e-4)  # of a float32
    for row in rows.values():
        if row['metric'] is not None and not row['int8']:
            assert row['metric'] == pytest.approx(trained, abs=0.05)
        if not row['reason'] and row['format'] != 'pytorch':
            assert row['logits_difference'] > 0 if row['int8'] else row['logits_difference'] < 1e-3
    assert 'no runtime' in rows['Core ML']['reason'] or 'pip install' in rows['Core ML']['reason']


@pytest.mark.slow
def test_the_first_images(tiny_detector, shapes_root, tmp_path):
    """COCO's metric is over these images only, as of a test set that has no others."""
    annotations = json.loads((shapes_root / 'annotations' / 'instances_val.json').read_text())
    kept = annotations['images'][:2]
    ids = {image['id'] for image in kept}
    annotations |= dict(images=kept, annotations=[each for each in annotations['annotations']
                                                  if each['image_id'] in ids])
    (tmp_path / 'two.json').write_text(json.dumps(annotations))
    common = [TOOL, *tiny_detector, '--formats', 'torchscript', *QUICK]
    python(*common, '--images', 2, '--out-dir', tmp_path / 'a', SHAPES_ROOT=shapes_root)
    python(*common, '--out-dir', tmp_path / 'b', '--cfg-options', f'test_evaluator.ann_file={tmp_path}/two.json',
           f'test_dataloader.dataset.ann_file={tmp_path}/two.json', SHAPES_ROOT=shapes_root)
    first, second = (json.loads((tmp_path / name / 'formats.json').read_text()) for name in 'ab')
    assert first['settings']['images'] == second['settings']['images'] == 2
    assert [row['metric'] for row in first['rows']] == [row['metric'] for row in second['rows']]


def test_bad_options(tiny_detector, tmp_path):
    with pytest.raises(ArgumentError, match='--images must be at least 1, got 0'):
        compare_formats(*tiny_detector, images=0, out_dir=tmp_path)
    with pytest.raises(ArgumentError, match="Unknown format 'onx'. Allowed are onnx, "):
        compare_formats(*tiny_detector, ['onx'], out_dir=tmp_path)
    with pytest.raises(MissingFileError, match='There is no folder'):
        compare_formats(*tiny_detector, calibration=tmp_path / 'none', out_dir=tmp_path)


@pytest.mark.slow
def test_ctrl_c_leaves_no_process(tiny_detector, shapes_root, tmp_path):
    psutil = pytest.importorskip('psutil')
    tool = subprocess.Popen([sys.executable, TOOL, *tiny_detector, '--out-dir', tmp_path], cwd=ROOT,
                            env=os.environ | {'SHAPES_ROOT': str(shapes_root), 'PYTHONPATH': str(ROOT)},
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    deadline = time.monotonic() + 300
    while not (tmp_path / 'logs' / 'onnx.log').is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    children = psutil.Process(tool.pid).children(recursive=True)
    tool.send_signal(signal.SIGINT)
    _, stderr = tool.communicate(timeout=30)
    assert children and tool.returncode == 130 and stderr.endswith('Interrupted.\n')
    assert not psutil.wait_procs(children, timeout=10)[1]
