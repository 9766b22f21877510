"""ncnn, converted from TorchScript by pnnx."""
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ...utils.errors import ConfigError, ExportedFileError, require
from .base import Format, Job, Run, complete_files, not_ours, parse_meta, read_sidecar, trace, write_sidecar


def _write(job: Job) -> None:
    with TemporaryDirectory() as folder, complete_files(job.out, '.bin', '.json') as path:
        torch.jit.save(torch.jit.freeze(trace(job.model, job.example)), Path(folder, 'graph.pt'))
        shape = ','.join(map(str, job.example.shape))
        result = subprocess.run(
            [_pnnx(), 'graph.pt', f'inputshape=[{shape}]', f'fp16={int(job.half)}', f'ncnnparam={path}',
             f'ncnnbin={path.with_suffix(".bin")}'], cwd=folder, capture_output=True, text=True)
        if not path.is_file():
            raise ExportedFileError(f'pnnx could not convert the network: {" ".join(result.stderr.split())[-300:]}')
        if unknown := _unknown_layers(path):
            raise ConfigError(f'ncnn has no layers {", ".join(unknown)}, which this network needs. '
                              'Export logits instead of classes (without --argmax), or name another format.')
        with torch.no_grad():
            outputs = job.model(job.example)
        # Of its arrays, those of length 1 come and go.
        shapes = [list(output.shape) for output in (outputs if isinstance(outputs, tuple) else (outputs, ))]
        write_sidecar(path, job.meta | dict(output_shapes=shapes))


def _pnnx() -> str:
    """The converter, which its package puts beside Python, or keeps in its own folder."""
    package = require('pnnx')
    name = 'pnnx.exe' if os.name == 'nt' else 'pnnx'
    places = [Path(sys.executable).with_name(name), *Path(package.__file__).parent.rglob(name)]
    return str(next(place for place in places if place.is_file()))


def _unknown_layers(param: Path) -> list[str]:
    """Operators that pnnx only passed on, such as ``torch.argmax``: ncnn would end the process when it meets one."""
    lines = param.read_text(encoding='utf-8').split('\n')[2:]
    return sorted({kind for kind in (line.split(' ', 1)[0] for line in lines) if '.' in kind or '::' in kind})


def _run(path: Path, threads: int | None) -> tuple[Run, dict]:
    ncnn = require('ncnn')
    lines = path.read_bytes()[:4096].split(b'\n')
    if lines[0].strip() != b'7767517':  # ncnn's own number for these files
        raise not_ours(path, "it is no text of ncnn's")
    if unknown := _unknown_layers(path):
        raise not_ours(path, f'ncnn has no layers {", ".join(unknown)}')
    network = ncnn.Net()
    network.opt.num_threads = threads or network.opt.num_threads
    for option in ('fp16_packed', 'fp16_storage', 'fp16_arithmetic', 'bf16_storage'):
        setattr(network.opt, f'use_{option}', False)
    if network.load_param(str(path)) != 0 or network.load_model(str(path.with_suffix('.bin'))) != 0:
        raise not_ours(path, 'ncnn does not read it')
    meta = parse_meta(path, read_sidecar(path))
    source, = network.input_names()
    outputs = sorted(network.output_names(), key=lambda name: int(name.removeprefix('out')))

    def run(image: np.ndarray) -> list[np.ndarray]:
        extractor = network.create_extractor()
        extractor.input(source, ncnn.Mat(np.ascontiguousarray(image[0])).clone())
        return [np.array(extractor.extract(name)[1]).reshape(shape)
                for name, shape in zip(outputs, meta['output_shapes'], strict=True)]

    return run, meta


FORMAT = Format('ncnn', 'ncnn', '.param', _write, _run, note='in ncnn', runtime='ncnn', companions=('.bin', '.json'),
                has_extra=True, writers=dict(pnnx='pnnx', ncnn='ncnn'),
                refuses=dict(batch='Leave --batch out: it has no batch axis.', dynamic='Name one size by --shape.',
                             nms='Leave --nms out, and select boxes in the app.',
                             int8="Leave --int8 out; ncnn's own tools quantize its files."))
