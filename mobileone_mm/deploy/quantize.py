"""Post-training quantization of a graph to int8, by ONNX Runtime."""
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..utils.errors import require


def quantize(proto, batches: Iterable[np.ndarray], per_channel: bool = True):
    """Quantize a graph's convolutions, with weights in int8 and activations in uint8, scaled to some images.

    Decoding stays in float32. So do the convolutions that nothing but decoding follows: scores and boxes would come in
    256 steps. ``benchmarks/int8.py`` measures what the rest costs.

    Args:
        proto: ``onnx.ModelProto`` of one input.
        batches: Inputs (some tens to hundreds) like those that it will see.
        per_channel: One scale for each output channel of a kernel, instead of one for all. MobileOne's folded depthwise
            kernels differ by orders of magnitude between channels, and with one scale they are lost.

    Returns:
        The graph in QDQ form.
    """
    onnx, tools = require('onnx'), require('onnxruntime.quantization', 'onnxruntime')
    name, batches = proto.graph.input[0].name, iter(batches)
    last = last_convolutions((node.name, node.op_type == 'Conv', node.input, node.output) for node in proto.graph.node)

    class Images(tools.CalibrationDataReader):

        def get_next(self) -> dict | None:
            batch = next(batches, None)
            return None if batch is None else {name: batch}

    with TemporaryDirectory() as temporary:
        whole, out = Path(temporary, 'float.onnx'), Path(temporary, 'int8.onnx')
        onnx.save(proto, whole)  # given the graph itself, it would move the weights out of it
        tools.quantize_static(
            whole, out, Images(), per_channel=per_channel, activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8, nodes_to_exclude=sorted(last),
            # With the activations, a convolution's output is quantized behind its ReLU and wastes no step on what that
            # cuts off. The mean of the images' extremes, not the extreme of all, as single outliers would set the
            # scale.
            op_types_to_quantize=['Conv', 'Relu', 'Clip'], extra_options=dict(CalibMovingAverage=True))
        return onnx.load(out)


def last_convolutions(nodes: Iterable[tuple[str, bool, Iterable[str], Iterable[str]]]) -> set[str]:
    """Names of the convolutions that no other one follows.

    Args:
        nodes: Of a graph, from input to output: name, whether it is a convolution, and the names of its inputs and
            outputs.
    """
    leads_to_one, last = set(), set()
    for name, is_convolution, inputs, outputs in reversed(list(nodes)):
        leads = any(output in leads_to_one for output in outputs)
        if is_convolution and not leads:
            last.add(name)
        if leads or is_convolution:
            leads_to_one.update(inputs)
    return last
