"""ExecuTorch, with XNNPACK on the CPU; for Vulkan and Core ML files are only written."""
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export.graph_signature import InputKind

from ...utils.errors import ConfigError, ExportedFileError, require
from ...utils.files import atomic_file
from ..quantize import last_convolutions
from .base import META, Format, Job, Run, parse_meta, reading

_PACKAGE = 'executorch'
# Each backend by its module and the class there.
_PARTITIONERS = {
    'xnnpack': ('executorch.backends.xnnpack.partition.xnnpack_partitioner', 'XnnpackPartitioner'),
    'vulkan': ('executorch.backends.vulkan.partitioner.vulkan_partitioner', 'VulkanPartitioner'),
    'coreml': ('executorch.backends.apple.coreml.partition', 'CoreMLPartitioner'),
}


def _write(job: Job) -> None:
    if job.backend == 'coreml':
        require('coremltools')
    module, partitioner = _PARTITIONERS[job.backend or 'xnnpack']
    partitioner = getattr(require(module, _PACKAGE), partitioner)()
    job.model.has_loops = True
    with torch.no_grad(), _quiet():
        program = _exported(job.model if job.calibration is None else _quantized(job), job)
        if job.calibration is None:  # in int8 it does not help
            _unshare(program)
        # There is no block of metadata, but a method of its own may return a text.
        lower = require('executorch.exir', _PACKAGE).to_edge_transform_and_lower
        try:
            program = lower(program, partitioner=[partitioner], constant_methods={META: json.dumps(job.meta)})
        except Exception as error:  # its passes wrap errors in plain ones
            if job.calibration is None:
                raise
            raise ConfigError(f'ExecuTorch does not lower this network in int8: {" ".join(str(error).split())[:200]}. '
                              'It is known of heads whose levels share weights, such as FCOS. Leave --int8 out.'
                              ) from error
        buffer = program.to_executorch().buffer
    with atomic_file(job.out) as file:
        file.write(buffer)


def _exported(model: nn.Module, job: Job) -> torch.export.ExportedProgram:
    if not job.dynamic:
        return torch.export.export(model, (job.example, ))
    least = job.meta.get('sizes', {}).get('multiple_of', 1)
    for multiple in sorted({least, max(4, least)}):  # the maps of a detector's levels are halved and rounded up
        try:
            return _with_free_sizes(model, job, multiple)
        except torch._dynamo.exc.UserError as error:
            refusal = error
    raise ConfigError('ExecuTorch does not export this network with free sizes: '
                      f'{" ".join(str(refusal).split())[:300]}. Name one size by --shape.') from refusal


def _with_free_sizes(model: nn.Module, job: Job, multiple: int) -> torch.export.ExportedProgram:
    """A program for one image of any size from 64 to 1024, for which its memory is planned, and note what it takes."""
    free = {axis: torch.export.Dim(name, min=64 // multiple, max=1024 // multiple)
            for axis, name in ((2, 'height'), (3, 'width'))}
    program = torch.export.export(model, (job.example[:1], ), dynamic_shapes=(
        {axis: multiple * size if multiple > 1 else size for axis, size in free.items()}, ))
    # A map of 1x1, such as the last one of an SSD, is taken to stay one, which may leave less than asked for.
    ranges = [each for symbol, each in program.range_constraints.items() if symbol.is_Symbol]
    job.meta.update(shape=[1, *job.meta['shape'][1:]], sizes=dict(
        multiple_of=multiple, least=multiple * int(max(each.lower for each in ranges)),
        most=multiple * int(min(each.upper for each in ranges))))
    return program


def _quantized(job: Job) -> nn.Module:
    """The convolutions in int8, but for those that nothing but decoding follows, as in :mod:`..quantize`."""
    xnnpack = require('executorch.backends.xnnpack.quantizer.xnnpack_quantizer', _PACKAGE)
    pt2e = require('torchao.quantization.pt2e.quantize_pt2e', 'torchao')
    graph = _exported(job.model, job).module()
    last = last_convolutions((node.name, node.target is torch.ops.aten.conv2d.default,
                              [each.name for each in node.all_input_nodes], [node.name]) for node in graph.graph.nodes)
    quantizer = xnnpack.XNNPACKQuantizer().set_operator_type(
        torch.ops.aten.conv2d.default, xnnpack.get_symmetric_quantization_config(is_per_channel=job.per_channel))
    prepared = pt2e.prepare_pt2e(graph, quantizer.set_filter_function(lambda node: node.name not in last))
    for batch in job.calibration_batches():
        prepared(torch.from_numpy(batch))
    return pt2e.convert_pt2e(prepared)


def _unshare(program: torch.export.ExportedProgram) -> None:
    """Give each operator a copy of its own of a weight that several read; the file keeps equal ones once.

    Heads share weights over levels. XNNPACK's partitioner puts all readers of a weight into one part, merged in the
    order of a set of objects: some runs end in "Invalid partition, found dependency cycles".
    """
    create = require('executorch.backends.transforms.utils', _PACKAGE).create_constant_placeholder
    graph, signature = program.graph, program.graph_signature
    for node in graph.find_nodes(op='placeholder'):
        name = signature.inputs_to_parameters.get(node.name) or signature.inputs_to_buffers.get(node.name)
        readers = [user for user in node.users if isinstance(user.target, torch._ops.OpOverload)]
        for i, user in enumerate(readers[1:] if name in program.state_dict else ()):
            with graph.inserting_before(node):
                own = create(program, graph, f'{node.name}_{i}', InputKind.PARAMETER,
                             program.state_dict[name].detach())
            user.replace_input_with(node, own)
    program.graph_module.recompile()


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


def _run(path: Path, threads: int | None) -> tuple[Run, dict]:
    runtime = require('executorch.runtime', _PACKAGE)
    if threads:
        require('executorch.extension.pybindings.portable_lib', _PACKAGE)._unsafe_reset_threadpool(threads)
    with reading(path, RuntimeError):
        program = runtime.Runtime.get().load_program(path, verification=runtime.Verification.InternalConsistency)
        text, = program.load_method(META).execute([]) if META in program.method_names else (None, )
        meta = parse_meta(path, text)
        if (backend := meta.get('backend', 'xnnpack')) != 'xnnpack':
            raise ExportedFileError(f'{str(path)!r} is for the backend {backend}, which there is on phones only. '
                                    'Export without --backend.')
        method = program.load_method('forward')

    def run(image: np.ndarray) -> list[np.ndarray]:
        # Copies: the runtime gives its own memory, and writes to it at the next call.
        return [output.numpy().copy() for output in method.execute([torch.from_numpy(np.ascontiguousarray(image))])]

    return run, meta


FORMAT = Format('executorch', 'ExecuTorch', '.pte', _write, _run, note='in ExecuTorch, by XNNPACK', runtime=_PACKAGE,
                has_extra=True, writers={'executorch.exir': _PACKAGE, 'torchao': 'torchao'},
                backends=tuple(_PARTITIONERS),
                refuses=dict(fp16='XNNPACK keeps the weights in single precision. Name --int8, or leave it out.'))
