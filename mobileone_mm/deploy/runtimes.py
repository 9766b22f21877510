"""One network, ready to run under torch, ONNX Runtime or OpenVINO."""
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..utils.errors import ArgumentError, require

RUNTIMES = ('torch', 'onnxruntime', 'openvino')


def require_runtimes(runtimes: Sequence[str], device: str) -> dict[str, str]:
    """Versions of torch and of the other runtimes, after a check that they are there.

    Raises:
        MissingPackageError: One of them, or what exports to it, is not installed.
        ArgumentError: The device is not for them.
    """
    others = [runtime for runtime in runtimes if runtime != 'torch']
    if device != 'cpu' and others:
        raise ArgumentError(f'{" and ".join(others)} run on the CPU here, got --device {device}. Leave them out of '
                            '--runtime, or leave --device out.')
    if others:
        require('onnx')
        require('onnxscript')
    versions = {'torch': torch.__version__} | {runtime: require(runtime).__version__ for runtime in others}
    return {name: version.partition('-')[0] for name, version in versions.items()}  # OpenVINO's goes on with its commit


def for_torch(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """A call of ``module`` on ``x`` that returns its outputs once they are computed."""

    def run():
        with torch.inference_mode():
            out = module(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return out

    return run


def onnxruntime_session(model: bytes | str, threads: int | None = None):
    """An ONNX file, by its content or its path, in ONNX Runtime, on the CPU."""
    onnxruntime = require('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])


def openvino_compiled(model, threads: int | None = None):
    """An OpenVINO model, or an ONNX file by its content, compiled for the CPU."""
    # Where the CPU has bfloat16, that would be its default, and miss by pixels.
    settings = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    settings |= {'INFERENCE_NUM_THREADS': threads} if threads else {}
    core = require('openvino').Core()
    return core.compile_model(core.read_model(model) if isinstance(model, bytes) else model, 'CPU', settings)


def for_onnxruntime(proto, x: Tensor, threads: int) -> Callable[[], Sequence]:
    """A call of an ``onnx.ModelProto`` on ``x`` by ONNX Runtime on the CPU."""
    session = onnxruntime_session(proto.SerializeToString(), threads)
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


def for_openvino(proto, x: Tensor, threads: int) -> Callable[[], Sequence]:
    """A call of an ``onnx.ModelProto`` on ``x`` by OpenVINO on the CPU, in float32."""
    request, array = openvino_compiled(proto.SerializeToString(), threads).create_infer_request(), x.numpy()
    return lambda: list(request.infer([array], share_inputs=True, share_outputs=True).values())
