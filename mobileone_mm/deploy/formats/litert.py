"""LiteRT, which was TensorFlow Lite."""
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ...utils.errors import require
from ...utils.files import atomic_file
from .base import META, Format, Job, Run, not_ours, reading


def _write(job: Job) -> None:
    converter, schema = require('litert_torch', 'litert-torch'), _schema()
    with TemporaryDirectory() as folder, open(os.devnull, 'w') as nowhere:
        path = Path(folder, 'model.tflite')
        with torch.no_grad(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            converter.convert(job.model.eval(), (job.example, )).export(str(path))
            if job.calibration is not None:
                _quantize(job, path)
        model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    _add_metadata(model, json.dumps(job.meta), schema)
    builder = require('flatbuffers').Builder()
    builder.Finish(model.Pack(builder), b'TFL3')
    with atomic_file(job.out) as file:
        file.write(bytes(builder.Output()))


def _add_metadata(model, text: str, schema) -> None:
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    entry.name, entry.buffer = META, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def _schema():
    return require('ai_edge_litert.schema_py_generated', 'ai-edge-litert')


def _quantize(job: Job, path: Path) -> None:
    """The convolutions in int8, in place; everything in int8 would not load."""
    tools, types = (require(f'ai_edge_quantizer.{name}', 'ai-edge-quantizer') for name in ('quantizer', 'qtyping'))
    quantizer = tools.Quantizer(str(path))
    granularity = types.QuantGranularity.CHANNELWISE if job.per_channel else types.QuantGranularity.TENSORWISE
    for operation in (types.TFLOperationName.CONV_2D, types.TFLOperationName.DEPTHWISE_CONV_2D):
        quantizer.add_static_config('.*', operation, activation_num_bits=8, weight_num_bits=8,
                                    weight_granularity=granularity)
    (key, signature), = _interpreter(str(path), None).get_signature_list().items()
    data = quantizer.calibrate({key: [{signature['inputs'][0]: batch} for batch in job.calibration_batches()]})
    path.write_bytes(quantizer.quantize(data).quantized_model)


def _interpreter(path: str, threads: int | None):
    return require('ai_edge_litert.interpreter', 'ai-edge-litert').Interpreter(path, num_threads=threads)


def _run(path: Path, threads: int | None) -> tuple[Run, str | None]:
    meta = _metadata(path)
    with reading(path, ValueError, RuntimeError):
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
    for entry in (model.Metadata(i) for i in range(model.MetadataLength())):
        if entry.Name() == META.encode():
            return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes().decode()
    return None


FORMAT = Format('litert', 'LiteRT', '.tflite', _write, _run, note='in LiteRT',
                writers=dict(litert_torch='litert-torch', ai_edge_litert='ai-edge-litert',
                             ai_edge_quantizer='ai-edge-quantizer'),
                refuses=dict(dynamic='Name one size by --shape.', nms='Leave --nms out, and select boxes in the app.',
                             fp16='Its files in half precision did not load. Name --int8, or leave it out.'))
