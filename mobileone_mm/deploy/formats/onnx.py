"""ONNX, which ONNX Runtime runs; other formats are converted from it."""
import json
from pathlib import Path

from torch import Tensor, nn

from ...utils.errors import require
from ..graphs import append_nms, trace_onnx, write_onnx
from ..quantize import quantize
from ..runtimes import onnxruntime_session
from ..wrappers.base import Deployable
from ..wrappers.detector import DeployableDetector
from .base import INPUT, META, Format, Job, Run, parse_meta, reading


class _Candidates(nn.Module):
    """A detector short of its NMS."""

    def __init__(self, detector: DeployableDetector):
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.detector.candidates(image)


def to_onnx(model: Deployable, example: Tensor, dynamic: bool = False):
    """The graph of a deployable model, NMS aside, as an ``onnx.ModelProto``."""
    if isinstance(model, DeployableDetector) and model.nms:
        return trace_onnx(_Candidates(model), example, INPUT, ('boxes', 'scores'), dynamic)
    return trace_onnx(model, example, INPUT, model.output_names, dynamic)


def complete_graph(job: Job):
    """The graph of a job as an ``onnx.ModelProto``: with metadata, and int8 and NMS if asked for."""
    proto = to_onnx(job.model, job.example, job.dynamic)
    proto.metadata_props.add(key=META, value=json.dumps(job.meta))
    if job.calibration is not None:
        proto = quantize(proto, job.calibration_batches(), job.per_channel)
    if isinstance(job.model, DeployableDetector) and job.model.nms:
        proto = append_nms(proto, job.model.iou_threshold, job.model.max_per_img)
    return proto


def _write(job: Job) -> None:
    write_onnx(complete_graph(job), job.out)


def _run(path: Path, threads: int | None) -> tuple[Run, dict]:
    errors = require('onnxruntime.capi.onnxruntime_pybind11_state', 'onnxruntime')  # they are public nowhere else
    with reading(path, errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf):
        session = onnxruntime_session(str(path), threads)
    name = session.get_inputs()[0].name
    meta = parse_meta(path, session.get_modelmeta().custom_metadata_map.get(META))
    return lambda image: session.run(None, {name: image}), meta


FORMAT = Format('onnx', 'ONNX', '.onnx', _write, _run, note='in ONNX Runtime', runtime='onnxruntime',
                halves_network=True, writers=dict(onnx='onnx', onnxscript='onnxscript', onnxruntime='onnxruntime'))
