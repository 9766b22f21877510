"""Commands as users run them, and what they log."""
import json
import os
import subprocess
import sys

from .paths import ROOT

ABSENT = ROOT / 'tests' / 'support' / 'absent'  # see the module there


def run(*command, check=True, cwd=None, **env):
    """Run a command with the project importable; a failure shows its output."""
    path = os.pathsep.join(filter(None, (str(ROOT), str(ABSENT), os.environ.get('PYTHONPATH'))))
    environment = os.environ | {'PYTHONPATH': path} | {key: str(value) for key, value in env.items()}
    result = subprocess.run([str(part) for part in command], cwd=cwd or ROOT, env=environment, encoding='utf-8',
                            capture_output=True, timeout=1200)
    assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


def python(*arguments, **kwargs):
    """Run this Python."""
    return run(sys.executable, *arguments, **kwargs)


def run_distributed(script, config, *arguments, **env):
    """Run a script of tools/ on two processes of this machine."""
    head, rest = ([], arguments) if 'train' in script else (arguments[:1], arguments[1:])
    return run(script, config, *head, 2, *rest, PORT=20000 + os.getpid() % 20000, PYTHON=sys.executable,
               OMP_NUM_THREADS=1, **env)


def scalars(folder):
    """All rows logged in a work dir, in the order of time."""
    return [json.loads(line) for file in sorted(folder.glob('*/vis_data/scalars.json'))
            for line in file.read_text(encoding='utf-8').splitlines()]


def logged(folder, metric):
    """The last metrics of ``metric``'s group in a work dir's newest scalars file, or in a test's json."""
    files = sorted(folder.glob('*/vis_data/scalars.json')) or sorted(folder.glob('*/*.json'))
    rows = [json.loads(line) for line in files[-1].read_text(encoding='utf-8').splitlines()]
    row = [row for row in rows if metric in row][-1]
    return {key: value for key, value in row.items()
            if key.startswith(('coco/', 'accuracy/')) or key in ('aAcc', 'mIoU', 'mAcc')}


def cfg_options(**settings):
    """--cfg-options of a run without workers that logs each iteration."""
    common = {f'{split}_dataloader.{key}': value for split in ('train', 'val', 'test')
              for key, value in (('num_workers', 0), ('persistent_workers', False))}
    common |= {'train_cfg.val_interval': 1, 'default_hooks.logger.interval': 1, 'randomness.seed': 3,
               'model.backbone.init_cfg': None}
    return only(**common | settings)


def only(**settings):
    """--cfg-options of these settings, and no others."""
    return ['--cfg-options', *(f'{key}={value}'.replace(' ', '') for key, value in settings.items())]
