"""Post-training quantization of a graph to int8, by ONNX Runtime."""
from pathlib import Path
from tempfile import TemporaryDirectory

import mmcv
import numpy as np
from rich.progress import track

from .graphs import require


def picture_files(folder: str | Path) -> list[Path]:
    """The pictures in a folder, sorted.

    Raises:
        FileNotFoundError: There is no such folder, or no picture in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'There is no folder {str(folder)!r}.')
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in ('.jpg', '.jpeg', '.png', '.bmp', '.webp'))
    if not files:
        raise FileNotFoundError(f'There are no pictures (jpg, png, bmp, webp) in {str(folder)!r}.')
    return files


def read_picture(file: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """A picture as an exported graph takes it: RGB, resized to ``shape``, (1, 3, H, W), float32 from 0 to 255."""
    picture = mmcv.imread(str(file), channel_order='rgb')
    if picture is None:
        raise ValueError(f'{str(file)!r} is no picture that OpenCV reads.')
    return mmcv.imresize(picture, shape[::-1]).transpose(2, 0, 1)[None].astype(np.float32)


def quantize(proto, folder: str | Path, shape: tuple[int, int], per_channel: bool = True):
    """Quantize a graph's convolutions, with weights in int8 and activations in uint8, scaled to some pictures.

    Decoding stays in float32. So do the convolutions that nothing but decoding follows: scores and boxes would come in 256
    steps.

    Args:
        proto: ``onnx.ModelProto`` of one input, of batch 1 or free.
        folder: Folder of pictures (some tens to hundreds) like those that it will see.
        shape: Height and width to resize them to.
        per_channel: One scale for each output channel of a kernel, instead of one for all. MobileOne's folded depthwise
            kernels differ by orders of magnitude between channels.

    Returns:
        The graph in QDQ form.

    Raises:
        FileNotFoundError: No pictures.
    """
    tools = require('onnxruntime.quantization', 'onnxruntime')
    files = picture_files(folder)
    name = proto.graph.input[0].name

    class Pictures(tools.CalibrationDataReader):

        def __init__(self):
            self.batches = iter(track(files, 'Calibrating'))

        def get_next(self) -> dict | None:
            file = next(self.batches, None)
            return None if file is None else {name: read_picture(file, shape)}

    with TemporaryDirectory() as temporary:
        out = Path(temporary, 'int8.onnx')
        tools.quantize_static(
            proto, out, Pictures(), per_channel=per_channel, activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8, op_types_to_quantize=['Conv'], nodes_to_exclude=_last_convolutions(proto))
        return require('onnx').load(out)


def _last_convolutions(proto) -> list[str]:
    """Names of the convolutions that no other one follows."""
    leads_to_one, last = set(), []
    for node in reversed(proto.graph.node):  # sorted from input to output
        leads = any(output in leads_to_one for output in node.output)
        if node.op_type == 'Conv' and not leads:
            last.append(node.name)
        if leads or node.op_type == 'Conv':
            leads_to_one.update(node.input)
    return last
