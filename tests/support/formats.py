"""Formats of exported files, as parameters of tests."""
import pytest
import torch

from mobileone_mm.deploy.formats import FORMATS

from .runs import python

PHONES = ('executorch', 'litert', 'mnn', 'ncnn')
_MODULES = {'onnx': 'onnxruntime', 'coreml': 'coremltools', 'litert': 'litert_torch', 'mnn': 'MNN',
            'torchscript': 'torch'}
_SLOW = ('executorch', 'litert')  # their exports take half a minute


def formats(*names):
    return pytest.mark.parametrize('name', [
        pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ()) for name in names])


def require(name):
    """A format, or a skip where what it needs is not installed."""
    try:
        pytest.importorskip(_MODULES.get(name, name))
    except ImportError as error:
        if 'executable stack' not in str(error):  # MNN's library, on Debian 13
            raise
        pytest.skip(str(error))
    return FORMATS[name]


def exported(model, out, name, *options):
    """By the tool, which compares the file with PyTorch; returns what it prints."""
    result = python('tools/export.py', *model, '--out', out, '--format', name, *options, check=False)
    if 'does not export this network to ONNX with free sizes' in result.stderr and torch.__version__.startswith('2.6.'):
        pytest.skip(result.stderr.splitlines()[-1])
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
