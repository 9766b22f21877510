"""ExecuTorch, with XNNPACK on the CPU."""
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...utils.errors import require
from ...utils.files import atomic_file
from ..quantize import last_convolutions
from .base import META, Format, Job, Run, reading

_PACKAGE = 'executorch'


def _write(job: Job) -> None:
    partitioner = require('executorch.backends.xnnpack.partition.xnnpack_partitioner', _PACKAGE)
    job.model.has_loops = True
    with torch.no_grad(), _quiet():
        model = job.model if job.calibration is None else _quantized(job)
        program = torch.export.export(model, (job.example, ))
        # There is no block of metadata, but a method of its own may return a text.
        program = require('executorch.exir', _PACKAGE).to_edge_transform_and_lower(
            program, partitioner=[partitioner.XnnpackPartitioner()], constant_methods={META: json.dumps(job.meta)})
        buffer = program.to_executorch().buffer
    with atomic_file(job.out) as file:
        file.write(buffer)


def _quantized(job: Job) -> nn.Module:
    """The convolutions in int8, but for those that nothing but decoding follows, as in :mod:`..quantize`."""
    xnnpack = require('executorch.backends.xnnpack.quantizer.xnnpack_quantizer', _PACKAGE)
    pt2e = require('torchao.quantization.pt2e.quantize_pt2e', 'torchao')
    graph = torch.export.export(job.model, (job.example, )).module()
    last = last_convolutions((node.name, node.target is torch.ops.aten.conv2d.default,
                              [each.name for each in node.all_input_nodes], [node.name]) for node in graph.graph.nodes)
    quantizer = xnnpack.XNNPACKQuantizer().set_operator_type(
        torch.ops.aten.conv2d.default, xnnpack.get_symmetric_quantization_config(is_per_channel=job.per_channel))
    prepared = pt2e.prepare_pt2e(graph, quantizer.set_filter_function(lambda node: node.name not in last))
    for batch in job.calibration_batches():
        prepared(torch.from_numpy(batch))
    return pt2e.convert_pt2e(prepared)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without hundreds of warnings and lines about each pass."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


def _run(path: Path, threads: int | None) -> tuple[Run, str | None]:
    runtime = require('executorch.runtime', _PACKAGE)
    if threads:
        require('executorch.extension.pybindings.portable_lib', _PACKAGE)._unsafe_reset_threadpool(threads)
    with reading(path, RuntimeError):
        program = runtime.Runtime.get().load_program(path, verification=runtime.Verification.InternalConsistency)
        if META not in program.method_names:
            return None, None
        meta, = program.load_method(META).execute([])
        method = program.load_method('forward')

    def run(image: np.ndarray) -> list[np.ndarray]:
        # Copies: the runtime gives its own memory, and writes to it at the next call.
        return [output.numpy().copy() for output in method.execute([torch.from_numpy(np.ascontiguousarray(image))])]

    return run, meta


FORMAT = Format('executorch', 'ExecuTorch', '.pte', _write, _run, note='in ExecuTorch, by XNNPACK', runtime=_PACKAGE,
                writers={'executorch.exir': _PACKAGE, 'torchao': 'torchao'},
                refuses=dict(dynamic='Name one size by --shape.',
                             fp16='XNNPACK keeps the weights in single precision. Name --int8, or leave it out.'))
