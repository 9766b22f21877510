"""What a maintainer needs to know of an installation, for a report of a fault: ``python -m mobileone_mm env``."""
import locale
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import torch
from mmengine.utils.dl_utils import collect_env

from ..compat.mmcv_ops import has_compiled_ops
from ..compat.switch import VARIABLE, is_on
from ..deploy.formats import FORMATS
from ..utils.machine import cpu_name, installed_versions
from ..version import __version__

# By module, the names for pip: of the onedl line, and upstream's.
_MM = {'mmengine': ('onedl-mmengine', 'mmengine'), 'mmcv': ('onedl-mmcv', 'mmcv'),
       'mmdet': ('onedl-mmdetection', 'mmdet'), 'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
       'mmpretrain': ('onedl-mmpretrain', 'mmpretrain')}
_BESIDE = ('torchvision', 'numpy', 'opencv-python', 'opencv-python-headless', 'pycocotools', 'timm', 'transformers')
_PREFIXES = ('MOBILEONE_', 'CUDA_', 'OMP_', 'MKL_', 'KMP_', 'NCCL_', 'TORCH', 'PYTHON', 'MMENGINE_', 'GLIBC_TUNABLES')


def environment() -> dict[str, str]:
    """Versions of Python, torch, the mm libraries, exporters and runtimes, mmcv's operators, processor and GPUs.

    Nothing of it is private but the path of the package and the values of the environment variables that change how
    torch and the mm libraries run.
    """
    mm = collect_env()
    gpus = [name for name in mm if name.startswith('GPU ')]
    # Of both lines, because a mixture of them is a fault by itself.
    installed = {name: _versions(names, 'not installed') for name, names in _MM.items()}
    # Those of all formats; torch has a line of its own.
    exporters = dict.fromkeys(name for each in FORMATS.values() for name in (*each.writers.values(), each.runtime)
                              if name not in (None, 'torch'))
    return {
        'mobileone_mm': f'{__version__}, in {Path(__file__).resolve().parents[1]}',
        'Python': mm['Python'],
        'system': f'{platform.platform()}, locale {locale.getpreferredencoding(False)}',
        'processor': f'{cpu_name()}, {torch.get_num_threads()} threads in torch',
        'GPU': '; '.join(f'{name[4:]}: {mm[name]}' for name in gpus) or 'none that torch can use',
        'torch': f'{torch.__version__}, CUDA {torch.version.cuda or "not built in"}, '
                 f'cuDNN {torch.backends.cudnn.version() or "not there"}',
        **installed,
        "mmcv's operators": _operators(),
        'also installed': _versions(_BESIDE, 'none of what matters'),
        'exporters and runtimes': _versions(exporters, 'none'),
        'environment variables': ', '.join(f'{name}={value}' for name, value in sorted(os.environ.items())
                                           if name.startswith(_PREFIXES)) or 'none that matter',
    }


def _operators() -> str:
    if has_compiled_ops():
        return 'compiled'
    return "the stand-in of mobileone_mm" if is_on() else f'none ({VARIABLE}=0)'


def _versions(names: Iterable[str], otherwise: str) -> str:
    """Names and versions of those packages that are installed."""
    return ', '.join(f'{name} {found}' for name, found in installed_versions(names).items()) or otherwise
