"""Imports that fail, in a config or in a script of mm: what to install, or to write instead."""
import re

from ..utils.errors import ConfigError, MissingPackageError

# Modules that configs dumped by earlier runs import, and their present names.
_MOVED = {
    'mobileone_mm.ssd': 'mobileone_mm.tasks.detection',
    'mobileone_mm.deeplabv3': 'mobileone_mm.tasks.segmentation',
    'mobileone_mm.pretraining': 'mobileone_mm.tasks.pretraining',
}
_PIP_NAMES = {'mmdet': 'onedl-mmdetection', 'mmseg': 'onedl-mmsegmentation', 'mmpretrain': 'onedl-mmpretrain'}


def explain_import(who: str, error: ImportError) -> None:
    """Raise an error with the remedy, if there is one.

    Args:
        who: Who imports, such as ``Config 'config.py'``.
        error: What the import raised, with its causes: mmengine itself only says which of ``custom_imports`` failed.

    Raises:
        ConfigError: A config imports a module of ours by a former name, or a pure Python config one that is not there.
        MissingPackageError: A package is not installed.
    """
    cause = error
    while cause is not None:
        if isinstance(cause, MissingPackageError):
            raise MissingPackageError(str(cause)) from error
        name = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if name in _MOVED:
            raise ConfigError(f'{who} imports {name}, which is now {_MOVED[name]}. Replace the one by the other in its '
                              'custom_imports.') from error
        if name in _PIP_NAMES:
            raise MissingPackageError(f'{who} needs {name}, which is not installed. Install it: '
                                      f'pip install {_PIP_NAMES[name]}') from error
        if name in ('mmcv._ext', 'mmcv.ops'):
            raise MissingPackageError(
                f'{who} needs compiled operators of mmcv, and this mmcv is without them. The stand-in for them is '
                'switched off by MOBILEONE_MM_COMPAT=0: unset it, or install an mmcv with operators.') from error
        cause = cause.__cause__ or cause.__context__
    if re.search(r', line \d+', str(error)):  # in a pure Python config, with file and line
        raise ConfigError(f'{error}. Correct the import.') from error
