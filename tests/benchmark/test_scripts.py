"""The scripts in benchmarks/ that need neither a GPU nor minutes: their tables, files and pictures."""
import csv
import json

import pytest

from tests.support.runs import python

SCRIPTS = {
    'eval_form': (['--arch', 's1', '--size', 32], {'deploy form', 'eval form', 'check alone'}),
    'live_norms': (['--arch', 's1', '--size', 32, '--batch', 2],
                   {'branches, plain layout', 'branches, channels_last', 'by itself, channels_last'}),
    'nms': (['--boxes', 10, 300], {'stand-in'}),
    'train_step': (['--arch', 's1', '--size', 32, '--batch', 2],
                   {'default', 'all branches', 'all branches, plain layout'}),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SCRIPTS)
def test_script(name, tmp_path):
    options, ways = SCRIPTS[name]
    screen = python(f'benchmarks/{name}.py', *options, '--rounds', 3, '--out-dir', tmp_path / 'out').stdout
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {f'{name}.{kind}' for kind in ('csv', 'json', 'png')}
    report = json.loads((tmp_path / 'out' / f'{name}.json').read_text())
    with open(tmp_path / 'out' / f'{name}.csv', newline='') as file:
        assert len(list(csv.DictReader(file))) == len(report['rows'])
    assert {row['way'] for row in report['rows']} >= ways and report['settings']['rounds'] == 3
    for row in report['rows']:
        low, high = row['q1_ms'], row['q3_ms']
        assert len(row['times_ms']) == 3 and 0 < low <= row['median_ms'] <= high
        assert f'{row["median_ms"]:.2f}' in screen and f'{low:.2f} to {high:.2f}' in screen
    first = [row for row in report['rows'] if row['way'] == report['rows'][0]['way']]
    assert all(row['ratio'] == 1 for row in first)
    assert (tmp_path / 'out' / f'{name}.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_too_few_rounds_are_one_line(tmp_path):
    result = python('benchmarks/nms.py', '--rounds', 0, '--out-dir', tmp_path / 'out', check=False)
    assert result.returncode == 1 and '--rounds must be at least 1, got 0' in result.stderr
    assert 'Traceback' not in result.stderr and not (tmp_path / 'out').exists()
