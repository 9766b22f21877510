"""Exported files, run: ONNX Runtime, OpenVINO, TorchScript."""
import functools
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..utils.errors import ExportedFileError, MissingFileError, require
from .runtimes import onnxruntime_session, openvino_compiled

META = 'mobileone_mm'


class ExportedFile:
    """An exported file as a function of images.

    Args:
        path: ``.onnx``, ``.xml`` (OpenVINO) or ``.pt`` (TorchScript), as :func:`.export.export` writes them.
        threads: Number of threads; default: the runtime's choice.

    Attributes:
        meta: What the file says of itself: ``task``, ``classes``, ``input``, ``outputs``, ``shape`` (None where
            free).

    Raises:
        MissingFileError: There is no such file.
        ExportedFileError: It cannot be read, or says nothing of itself.
        MissingPackageError: Its runtime is not installed.
    """

    def __init__(self, path: str | Path, threads: int | None = None):
        path = Path(path)
        if path.suffix not in _RUNTIMES:
            raise ExportedFileError(f'Cannot run {str(path)!r}: allowed are files that end in {", ".join(_RUNTIMES)}.')
        if not path.is_file():
            raise MissingFileError(f'There is no file {str(path)!r}.')
        self._run, meta = _RUNTIMES[path.suffix](path, threads)
        if not meta:
            raise _not_ours(path, 'it has no metadata of ours')
        self.meta = json.loads(meta)

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Images as ``meta['input']`` says, (N, C, H, W), float32 from 0 to 255 -> the outputs by their names."""
        return dict(zip(self.meta['outputs'], self._run(image), strict=True))


def open_exported(path: str | Path) -> ExportedFile:
    """An :class:`ExportedFile`, the same one again as long as the file stays as it is.

    A config takes the metadata of a file before its model is built of it, and opening compiles the network.
    """
    state = os.stat(path) if os.path.isfile(path) else None
    return _open(os.path.abspath(path), state and (state.st_mtime_ns, state.st_size))


@functools.lru_cache(maxsize=1)
def _open(path: str, state: tuple[int, int] | None) -> ExportedFile:
    return ExportedFile(path)


def is_exported(path: str | Path) -> bool:
    """Whether a path names an exported file: by its end, where that is not a checkpoint's too."""
    path = Path(path)
    if path.suffix == '.pt':
        return zipfile.is_zipfile(path) and any(
            name.endswith('/constants.pkl') for name in zipfile.ZipFile(path).namelist())
    return path.suffix in _RUNTIMES


def _not_ours(path: Path, reason: object) -> ExportedFileError:
    return ExportedFileError(f'{str(path)!r} is damaged, or was not written by tools/export.py: '
                             f'{" ".join(str(reason).split())[:300]}')


@contextmanager
def _reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """For the one call by which a runtime reads a file, with the errors by which it refuses one."""
    try:
        yield
    except errors as error:
        raise _not_ours(path, error) from error


def _onnxruntime(path: Path, threads: int | None):
    errors = require('onnxruntime.capi.onnxruntime_pybind11_state', 'onnxruntime')  # they are public nowhere else
    with _reading(path, errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf):
        session = onnxruntime_session(str(path), threads)
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image}), session.get_modelmeta().custom_metadata_map.get(META)


def _openvino(path: Path, threads: int | None):
    core = require('openvino').Core()
    with _reading(path, RuntimeError):
        model = core.read_model(str(path))
    compiled = openvino_compiled(model, threads)
    meta = model.get_rt_info([META]).value if model.has_rt_info([META]) else None
    return lambda image: list(compiled(image).values()), meta


def _torchscript(path: Path, threads: int | None):
    files = {META: ''}
    with _reading(path, RuntimeError):
        module = torch.jit.load(path, map_location='cpu', _extra_files=files)

    @torch.inference_mode()
    def run(image: np.ndarray) -> list[np.ndarray]:
        outputs = module(torch.from_numpy(image))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs, ))]

    return run, files[META]


_RUNTIMES = {'.onnx': _onnxruntime, '.xml': _openvino, '.pt': _torchscript}
