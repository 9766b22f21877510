"""A module as a file that a runtime reads: ONNX, TorchScript, OpenVINO, Core ML."""
import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from .files import atomic_file


class MissingPackageError(ImportError):
    """A format needs a package that is not installed."""


def require(module: str, package: str | None = None) -> ModuleType:
    """Import an optional module.

    Args:
        module: Its name for import.
        package: Its name for pip, if another.

    Raises:
        MissingPackageError: Naming what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module.partition('.')[0]
        raise MissingPackageError(f'This needs {package}, which does not import ({error}). Install it: '
                                  f'pip install {package}') from error


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's lines about torchvision's operators, which no model here has."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def trace_onnx(model: nn.Module, example: Tensor, input_name: str, output_names: Sequence[str], dynamic: bool = False):
    """A module in eval mode as an ``onnx.ModelProto``.

    Args:
        model: Module of one input.
        example: Input, (N, C, H, W).
        input_name: Name of the input in the graph.
        output_names: Names of the outputs, in order.
        dynamic: Whether batch, height and width may vary; otherwise they are those of ``example``.

    Raises:
        MissingPackageError: onnx or onnxscript is not installed.
    """
    require('onnx')
    require('onnxscript')
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            model, (example, ), dynamo=True, verbose=False, input_names=[input_name], output_names=list(output_names),
            dynamic_shapes=(free, ) if dynamic else None)
    return program.model_proto


def write_onnx(proto, path: str | Path) -> None:
    """Write an ``onnx.ModelProto`` to one file, after checking it, or leave no file."""
    onnx = require('onnx')
    onnx.checker.check_model(proto, full_check=True)
    with atomic_file(path) as file:
        file.write(proto.SerializeToString())
