"""TorchScript, which torch runs."""
import json
from pathlib import Path

import numpy as np
import torch

from ...utils.files import atomic_file
from .base import META, Format, Job, Run, parse_meta, reading, trace


def _write(job: Job) -> None:
    frozen = torch.jit.freeze(trace(job.model, job.example))
    with atomic_file(job.out) as file:
        torch.jit.save(frozen, file, _extra_files={META: json.dumps(job.meta)})


def _run(path: Path, threads: int | None) -> tuple[Run, dict]:
    files = {META: ''}
    with reading(path, RuntimeError):
        module = torch.jit.load(path, map_location='cpu', _extra_files=files)

    @torch.inference_mode()
    def run(image: np.ndarray) -> list[np.ndarray]:
        outputs = module(torch.from_numpy(image))
        return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs, ))]

    return run, parse_meta(path, files[META])


FORMAT = Format('torchscript', 'TorchScript', '.pt', _write, _run, note='in torch', runtime='torch',
                halves_network=True, refuses=dict(int8='Name --format onnx, openvino, executorch or litert.'))
