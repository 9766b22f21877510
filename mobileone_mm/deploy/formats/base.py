"""What a format of exported files is: one :class:`.Format` each, in a module of its own."""
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from ...datasets.images import read_images
from ...utils.errors import ExportedFileError
from ...utils.files import disk_errors
from ..wrappers.base import Deployable

META = 'mobileone_mm'  # the key of our metadata, where a format has keys
INPUT = 'image'

Run = Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Job:
    """What is to be written.

    Attributes:
        model: On the CPU, in float32 or with its network in half precision.
        example: An input, (N, C, H, W).
        out: The file.
        meta: Its metadata.
        dynamic: Whether height and width are free, and the batch where the format can.
        half: Whether half precision was asked for.
        calibration: Folder of images to scale int8 to, if it was asked for.
        per_channel: Whether int8 has a scale for each channel of a kernel.
        backend: One of the format's backends, if it has any.
    """

    model: Deployable
    example: Tensor
    out: Path
    meta: dict
    dynamic: bool = False
    half: bool = False
    calibration: str | Path | None = None
    per_channel: bool = True
    backend: str | None = None

    def calibration_batches(self) -> Iterator[np.ndarray]:
        """The images of ``calibration`` as the file will get them, each repeated to the batch of ``example``."""
        batch, channels, *shape = self.example.shape
        for image in read_images(self.calibration, shape, channels):
            yield image.repeat(1 if self.dynamic else batch, axis=0)


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: For ``--format``.
        title: For people.
        suffix: Of its files.
        write: Writes a job's file, complete or not at all.
        run: Opens a file, with a number of threads (None: the runtime's choice): a function from images to outputs,
            and our metadata, by :func:`.parse_meta`. None: there is no runtime for it here.
        writers: Modules that writing needs, and their names for pip where these are others.
        refuses: Options (``batch``, ``dynamic``, ``nms``, ``fp16``, ``int8``) that it does not have, each with what to
            do instead.
        backends: What a file can be made for, where that is to be chosen; only the first is executed here.
        companions: Suffixes of the files beside it, which belong to it.
        has_extra: Whether an extra of its own brings its packages; else it is ``export``.
        note: For the table of formats, where it is executed.
        runtime: Name for pip of the package that runs it; None: there is no runtime for it here.
        halves_network: Whether the network is given in half precision for ``fp16``; else ``write`` sees to it.
    """

    name: str
    title: str
    suffix: str
    write: Callable[[Job], None]
    run: Callable[[Path, int | None], tuple[Run, dict]] | None
    note: str
    writers: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)
    backends: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    has_extra: bool = False
    runtime: str | None = None
    halves_network: bool = False

    @property
    def extra(self) -> str:
        """The extra of our package that brings what writing needs."""
        return f'export-{self.name}' if self.has_extra else 'export'

    def files(self, out: Path) -> list[Path]:
        """All files of which an exported file consists."""
        if out.is_dir():
            return [file for file in out.rglob('*') if file.is_file()]
        return [out, *(out.with_suffix(suffix) for suffix in self.companions)]


def not_ours(path: Path, reason: object) -> ExportedFileError:
    """The error for a file that a runtime refuses."""
    return ExportedFileError(f'{str(path)!r} is damaged, or was not written by tools/export.py: '
                             f'{" ".join(str(reason).split())[:300]}')


def parse_meta(path: Path, text: str | None) -> dict:
    """Our metadata, as it stands in a file.

    Raises:
        ExportedFileError: It is not there, or is not ours.
    """
    try:
        meta = json.loads(text or '')
    except json.JSONDecodeError:
        meta = None
    if not isinstance(meta, dict) or not {'task', 'shape', 'outputs', 'classes', 'config'} <= meta.keys():
        raise not_ours(path, 'it has no metadata of ours')
    return meta


@contextmanager
def reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """For the one call by which a runtime reads a file, with the errors by which it refuses one."""
    try:
        yield
    except errors as error:
        raise not_ours(path, error) from error


@contextmanager
def complete_files(out: Path, *suffixes: str) -> Iterator[Path]:
    """A path in a temporary folder, whose file takes its place at ``out`` in the end, with companions before it.

    Args:
        out: The file to write.
        *suffixes: Of the companions, instead of that of ``out``.

    Raises:
        DiskError: They cannot be written.
    """
    with disk_errors(out), TemporaryDirectory(dir=out.parent) as folder:
        temporary = Path(folder, out.name)
        yield temporary
        for suffix in suffixes:
            os.replace(temporary.with_suffix(suffix), out.with_suffix(suffix))
        os.replace(temporary, out)


def write_sidecar(path: Path, meta: dict) -> None:
    """The metadata in a JSON file beside a file whose format has no place for it."""
    path.with_suffix('.json').write_text(json.dumps(meta, indent=1), encoding='utf-8')


def read_sidecar(path: Path) -> str | None:
    """What :func:`.write_sidecar` wrote; None if it is not there."""
    path = path.with_suffix('.json')
    return path.read_text(encoding='utf-8') if path.is_file() else None


def trace(model: Deployable, example: Tensor) -> torch.jit.ScriptModule:
    """A model as a TorchScript graph."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)  # of checks of shapes, which a graph does without
        return torch.jit.trace(model, example, check_trace=False)
