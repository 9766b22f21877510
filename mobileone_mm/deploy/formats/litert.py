"""LiteRT, which was TensorFlow Lite."""
import json
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ...utils.errors import require
from ...utils.files import atomic_file
from ..quantize import last_convolutions
from .base import META, Format, Job, Run, not_ours, parse_meta, reading


def _write(job: Job) -> None:
    converter = require('litert_torch', 'litert-torch')
    with TemporaryDirectory() as folder:
        path = Path(folder, 'model.tflite')
        with torch.no_grad(), _quiet():
            converter.convert(job.model.eval(), (job.example, )).export(str(path))
        _add_metadata(path, json.dumps(job.meta))
        if job.calibration is not None or job.half:
            _quantize(job, path)
        content = path.read_bytes()
    with atomic_file(job.out) as file:
        file.write(content)


@contextmanager
def _quiet() -> Iterator[None]:
    with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _add_metadata(path: Path, text: str) -> None:
    """Before quantization, which puts weights behind the flatbuffer, where its own library cannot follow them."""
    schema = _schema()
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    entry.name, entry.buffer = META, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = require('flatbuffers').Builder()
    builder.Finish(model.Pack(builder), b'TFL3')
    path.write_bytes(bytes(builder.Output()))


def _schema():
    return require('ai_edge_litert.schema_py_generated', 'ai-edge-litert')


def _quantize(job: Job, path: Path) -> None:
    """The convolutions in int8 (everything would not load), or all weights in half precision; in place."""
    tools, types = (require(f'ai_edge_quantizer.{name}', 'ai-edge-quantizer') for name in ('quantizer', 'qtyping'))
    algorithms = require('ai_edge_quantizer.algorithm_manager', 'ai-edge-quantizer').AlgorithmName
    quantizer, data = tools.Quantizer(str(path)), None
    if job.calibration is None:
        quantizer.add_weight_only_config('.*', types.TFLOperationName.ALL_SUPPORTED, num_bits=16,
                                         algorithm_key=algorithms.FLOAT_CASTING)
    else:
        granularity = types.QuantGranularity.CHANNELWISE if job.per_channel else types.QuantGranularity.TENSORWISE
        for operation in (types.TFLOperationName.CONV_2D, types.TFLOperationName.DEPTHWISE_CONV_2D):
            quantizer.add_static_config('.*', operation, activation_num_bits=8, weight_num_bits=8,
                                        weight_granularity=granularity)
        for name in _last_convolutions(path):
            quantizer.update_quantization_recipe(f'^{re.escape(name)};?$', types.TFLOperationName.ALL_SUPPORTED,
                                                 algorithm_key=algorithms.NO_QUANTIZE)
        (key, signature), = _interpreter(str(path), None).get_signature_list().items()
        data = quantizer.calibrate({key: [{signature['inputs'][0]: batch} for batch in job.calibration_batches()]})
    with _quiet():
        path.write_bytes(quantizer.quantize(data).quantized_model)


def _last_convolutions(path: Path) -> list[str]:
    """The outputs of the convolutions that stay in float, as in :mod:`..quantize`."""
    schema = _schema()
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    kinds = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)
    graph, = model.subgraphs
    last = last_convolutions((str(i), model.operatorCodes[node.opcodeIndex].builtinCode in kinds, node.inputs,
                              node.outputs) for i, node in enumerate(graph.operators))
    return [graph.tensors[graph.operators[int(i)].outputs[0]].name.decode() for i in last]


def _interpreter(path: str, threads: int | None):
    return require('ai_edge_litert.interpreter', 'ai-edge-litert').Interpreter(path, num_threads=threads)


def _run(path: Path, threads: int | None) -> tuple[Run, dict]:
    with reading(path, struct.error, ValueError, RuntimeError):
        meta = parse_meta(path, _metadata(path))
        interpreter = _interpreter(str(path), threads)
        interpreter.allocate_tensors()
    image, = interpreter.get_input_details()
    outputs = [output['index'] for output in interpreter.get_output_details()]

    def run(batch: np.ndarray) -> list[np.ndarray]:
        interpreter.set_tensor(image['index'], batch)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run, meta


def _metadata(path: Path) -> str | None:
    content = path.read_bytes()
    if content[4:8] != b'TFL3':
        raise not_ours(path, 'it is no TFLite file')
    model = _schema().Model.GetRootAs(content)
    # Quantized weights lie behind the flatbuffer, where LiteRT would read past a cut file's end. (Offsets 0 and 1: it
    # is in the flatbuffer.)
    buffers = [model.Buffers(i) for i in range(model.BuffersLength())]
    if any(buffer.Offset() > 1 and buffer.Offset() + buffer.Size() > len(content) for buffer in buffers):
        raise not_ours(path, 'its end is missing')
    for entry in (model.Metadata(i) for i in range(model.MetadataLength())):
        if entry.Name() == META.encode():
            buffer = buffers[entry.Buffer()]
            start = buffer.Offset()
            text = content[start:start + buffer.Size()] if start > 1 else buffer.DataAsNumpy().tobytes()
            return text.decode()
    return None


FORMAT = Format('litert', 'LiteRT', '.tflite', _write, _run, note='in LiteRT', runtime='ai-edge-litert',
                has_extra=True, writers=dict(litert_torch='litert-torch', ai_edge_litert='ai-edge-litert',
                             ai_edge_quantizer='ai-edge-quantizer'),
                refuses=dict(dynamic='Name one size by --shape.'))
