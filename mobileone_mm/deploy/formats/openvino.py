"""OpenVINO, converted from ONNX by its own reader."""
import json
from pathlib import Path

from ...utils.errors import require
from ..runtimes import openvino_compiled
from .base import META, Format, Job, Run, complete_files, parse_meta, reading
from .onnx import complete_graph


def _write(job: Job) -> None:
    openvino = require('openvino')
    model = openvino.Core().read_model(complete_graph(job).SerializeToString())
    model.set_rt_info(json.dumps(job.meta), META)
    with complete_files(job.out, '.bin') as path:
        openvino.save_model(model, path, compress_to_fp16=job.half)


def _run(path: Path, threads: int | None) -> tuple[Run, dict]:
    core = require('openvino').Core()
    with reading(path, RuntimeError):
        model = core.read_model(str(path))
    compiled = openvino_compiled(model, threads)
    meta = model.get_rt_info([META]).value if model.has_rt_info([META]) else None
    return lambda image: list(compiled(image).values()), parse_meta(path, meta)


FORMAT = Format('openvino', 'OpenVINO', '.xml', _write, _run, note='in OpenVINO', runtime='openvino',
                companions=('.bin', ), writers=dict(onnx='onnx', onnxscript='onnxscript', openvino='openvino'))
