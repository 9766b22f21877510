"""The formats of exported files. A new one is a module here, and an entry in this table."""
from ...utils.errors import ArgumentError
from . import coreml, executorch, litert, mnn, ncnn, onnx, openvino, torchscript
from .base import Format

FORMATS: dict[str, Format] = {each.FORMAT.name: each.FORMAT for each in (
    onnx, torchscript, openvino, coreml, executorch, litert, mnn, ncnn)}


def format_named(name: str) -> Format:
    """The format of this name.

    Raises:
        ArgumentError: There is none.
    """
    if name not in FORMATS:
        raise ArgumentError(f'Unknown format {name!r}. Allowed are {", ".join(FORMATS)}.')
    return FORMATS[name]


def format_of(suffix: str) -> Format | None:
    """The format whose files end so, or None."""
    return next((each for each in FORMATS.values() if each.suffix == suffix), None)
