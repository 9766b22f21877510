"""What several tests need: random norms, an independent reference, data."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mobileone_mm import MobileOneBlock
from mobileone_mm.datasets.shapes import make_shapes

ROOT = Path(__file__).resolve().parents[1]
# All of them; those between run with the slow tests.
ARCH_PARAMS = ['s0', *(pytest.param(f's{i}', marks=pytest.mark.slow) for i in (1, 2, 3)), 's4']
DATA = Path(os.environ.get('MOBILEONE_TEST_DATA', ROOT / 'data' / 'test'))


def real_data(name):
    """Folder of real pictures or weights, or a skip."""
    if not (DATA / name).is_dir():
        pytest.skip(f'no {name} below {DATA}; set MOBILEONE_TEST_DATA')
    return DATA / name


def randomize(model, seed=0):
    """Give every norm four random tensors: on fresh norms most wrong folds pass."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            channels = module.num_features
            module.running_mean.copy_(torch.randn(channels, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
            if module.affine:
                module.weight.data.copy_(torch.rand(channels, generator=generator) + 0.5)
                module.bias.data.copy_(torch.randn(channels, generator=generator) * 0.2)
    return model


def frozen_norm(norm, x):
    """BatchNorm's formula with running statistics; an Identity (after fuse_conv_bn) passes."""
    if not isinstance(norm, _BatchNorm):
        return x
    shape = (1, -1, 1, 1)
    x = (x - norm.running_mean.reshape(shape)) / (norm.running_var.reshape(shape) + norm.eps).sqrt()
    return x if norm.weight is None else x * norm.weight.reshape(shape) + norm.bias.reshape(shape)


def reference(module, x):
    """The branch formula, written again with torch's functions; for a block, a stage or a backbone's stages."""
    if not isinstance(module, MobileOneBlock):
        for child in module:
            x = reference(child, x)
        return x
    out = 0
    for branch in module.conv_branches:
        for hook in branch.conv._forward_pre_hooks.values():  # prune's
            hook(branch.conv, ())
        conv = F.conv2d(x, branch.conv.weight, branch.conv.bias, module.stride, module.dilation *
                        (module.kernel_size // 2), module.dilation, module.groups)
        out = out + frozen_norm(branch.bn, conv)
    if module.scale_branch is not None:
        conv = F.conv2d(x, module.scale_branch.conv.weight, module.scale_branch.conv.bias, module.stride,
                        groups=module.groups)
        out = out + frozen_norm(module.scale_branch.bn, conv)
    if module.skip_branch is not None:
        out = out + frozen_norm(module.skip_branch, x)
    return module.activate(module.se(out))


def reference_maps(backbone, x):
    """All four feature maps of a backbone by the branch formula."""
    x = reference(backbone.stage0, x)
    maps = []
    for i in range(1, 5):
        x = reference(getattr(backbone, f'stage{i}'), x)
        maps.append(x)
    return maps


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    """A small drawn data set."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(root, num_train=16, num_val=6, size=96)
    return root


def run(*command, check=True, cwd=None, **env):
    """Run a command with the project importable; its output is in the failure's message."""
    environment = os.environ | {'PYTHONPATH': str(ROOT)} | {key: str(value) for key, value in env.items()}
    result = subprocess.run([str(part) for part in command], cwd=cwd or ROOT, env=environment, text=True,
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
            for line in file.read_text().splitlines()]


def logged(folder, metric):
    """The last metrics in a work dir's newest scalars file, or in a test's json: those of the group of ``metric``."""
    files = sorted(folder.glob('*/vis_data/scalars.json')) or sorted(folder.glob('*/*.json'))
    rows = [json.loads(line) for line in files[-1].read_text().splitlines()]
    row = [row for row in rows if metric in row][-1]
    return {key: value for key, value in row.items() if key.startswith('coco/') or key in ('aAcc', 'mIoU', 'mAcc')}


def cfg_options(**settings):
    """--cfg-options of a run without workers that logs each iteration."""
    common = {f'{split}_dataloader.{key}': value for split in ('train', 'val', 'test')
              for key, value in (('num_workers', 0), ('persistent_workers', False))}
    common |= {'train_cfg.val_interval': 1, 'default_hooks.logger.interval': 1, 'randomness.seed': 3,
               'model.backbone.init_cfg': None}
    return ['--cfg-options', *(f'{key}={value}'.replace(' ', '') for key, value in (common | settings).items())]
