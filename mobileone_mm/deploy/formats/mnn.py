"""MNN, converted from ONNX by its own converter."""
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ...utils.errors import ExportedFileError, require
from ..graphs import write_onnx
from .base import INPUT, Format, Job, Run, complete_files, not_ours, parse_meta, reading
from .onnx import complete_graph

# The command mnnconvert does this, and then installs a package by pip and reports to its vendor. In a process of its
# own, because it ends the process when a graph is not to its liking.
_CONVERT = 'import sys, MNN, _tools; _tools.mnnconvert(sys.argv)'


def _write(job: Job) -> None:
    with complete_files(job.out) as path, TemporaryDirectory() as folder:
        graph = Path(folder, 'graph.onnx')
        write_onnx(complete_graph(job), graph)
        result = subprocess.run(
            [sys.executable, '-c', _CONVERT, '-f', 'ONNX', '--modelFile', graph, '--MNNModel', path,
             '--bizCode', json.dumps(job.meta), *(['--fp16'] if job.half else [])], capture_output=True, text=True)
        if not path.is_file():
            raise ExportedFileError(f'MNN could not convert the network: {" ".join(result.stdout.split())[-300:]} '
                                    f'{" ".join(result.stderr.split())[-300:]}')


def _run(path: Path, threads: int | None) -> tuple[Run, dict]:
    mnn, expr = require('MNN').nn, require('MNN').expr
    runtime = mnn.create_runtime_manager(({'backend': 'CPU', 'precision': 'high', 'numThread': threads or 4}, ))
    with reading(path, RuntimeError, SystemError):
        about = mnn.load_module_from_file(str(path), [], [], runtime_manager=runtime)
    if about is None:
        raise not_ours(path, 'MNN does not read it')
    meta = parse_meta(path, about.get_info().get('bizCode'))
    network = mnn.load_module_from_file(str(path), [INPUT], list(meta['outputs']), runtime_manager=runtime)

    def run(image: np.ndarray) -> list[np.ndarray]:
        answers = network.forward([expr.const(np.ascontiguousarray(image), list(image.shape), expr.NCHW)])
        return [np.array(answer.read()) for answer in answers]

    return run, meta


FORMAT = Format('mnn', 'MNN', '.mnn', _write, _run, note='in MNN', runtime='MNN', has_extra=True,
                writers=dict(onnx='onnx', onnxscript='onnxscript', onnxruntime='onnxruntime', MNN='MNN'),
                refuses=dict(int8="Leave --int8 out; MNN's own tools quantize its files."))
