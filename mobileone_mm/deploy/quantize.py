"""Post-training quantization of a graph to int8, by ONNX Runtime."""
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import track

from ..datasets.images import image_files, read_image
from ..utils.errors import require


def quantize(proto, folder: str | Path, shape: tuple[int, int], per_channel: bool = True):
    """Quantize a graph's convolutions, with weights in int8 and activations in uint8, scaled to some images.

    Decoding stays in float32. So do the convolutions that nothing but decoding follows: scores and boxes would come in
    256 steps. ``benchmarks/int8.py`` measures what the rest costs.

    Args:
        proto: ``onnx.ModelProto`` of one input.
        folder: Folder of images (some tens to hundreds) like those that it will see.
        shape: Height and width to resize them to.
        per_channel: One scale for each output channel of a kernel, instead of one for all. MobileOne's folded depthwise
            kernels differ by orders of magnitude between channels, and with one scale they are lost.

    Returns:
        The graph in QDQ form.

    Raises:
        MissingFileError: No images.
    """
    onnx, tools = require('onnx'), require('onnxruntime.quantization', 'onnxruntime')
    files = image_files(folder)
    name = proto.graph.input[0].name
    sizes = proto.graph.input[0].type.tensor_type.shape.dim
    batch, channels = sizes[0].dim_value or 1, sizes[1].dim_value

    class Images(tools.CalibrationDataReader):

        def __init__(self):
            self.batches = iter(track(files, 'Calibrating'))

        def get_next(self) -> dict | None:
            file = next(self.batches, None)
            return None if file is None else {name: read_image(file, shape, channels).repeat(batch, axis=0)}

    with TemporaryDirectory() as temporary:
        whole, out = Path(temporary, 'float.onnx'), Path(temporary, 'int8.onnx')
        onnx.save(proto, whole)  # given the graph itself, it would move the weights out of it
        tools.quantize_static(
            whole, out, Images(), per_channel=per_channel, activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8, nodes_to_exclude=_last_convolutions(proto),
            # With the activations, a convolution's output is quantized behind its ReLU and wastes no step on what that
            # cuts off. The mean of the images' extremes, not the extreme of all, as single outliers would set the
            # scale.
            op_types_to_quantize=['Conv', 'Relu', 'Clip'], extra_options=dict(CalibMovingAverage=True))
        return onnx.load(out)


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
