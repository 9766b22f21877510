"""A trained detector or segmentor as a file that ONNX Runtime, TorchScript, OpenVINO or Core ML runs."""
import json
import os
import shutil
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets.images import image_files, read_image
from ..engine.config import class_names, read_config
from ..engine.trained import load_trained
from ..utils.errors import ArgumentError, require
from ..utils.files import atomic_file, disk_errors, make_folder
from .deployable import Deployable
from .detector import DeployableDetector
from .exported_file import META, ExportedFile
from .graphs import append_nms, trace_onnx, write_onnx
from .quantize import quantize
from .wrappers import input_shape, make_deployable

SUFFIXES = {'onnx': '.onnx', 'torchscript': '.pt', 'openvino': '.xml', 'coreml': '.mlpackage'}
INPUT = 'image'
_ORDERS = {1: 'images in gray', 3: 'images in RGB'}
_OTHER_ORDER = "images with their channels as the config's pipeline loads them (of PNG: BGR and alpha)"
_OUTPUTS = {
    'boxes': 'x1, y1, x2, y2 in pixels of the input',
    'scores': '0 to 1; with labels of the box, else of each class; 0 where there is no box',
    'labels': 'index of the class; -1 where there is no box',
    'factors': 'what the scores are multiplied by already, such as centerness; mmdet applies score_thr and nms_pre to '
               'scores / factors',
    'levels': 'number of the feature level of each box, because nms_pre is for each level',
    'logits': 'of each class, before softmax, at the size of the input',
    'mask': 'index of the class of each pixel of the input',
}


def export(config: str | Path, checkpoint: str | Path, out: str | Path, fmt: str, *,
           shape: tuple[int, int] | None = None, batch: int = 1, dynamic: bool = False, half: bool = False,
           nms: bool = False, argmax: bool = False, calibration: str | Path | None = None, per_channel: bool = True,
           cfg_options: dict | None = None, trust: bool = False) -> dict:
    """Write a trained detector or segmentor for a runtime, and compare its outputs with PyTorch's.

    The graph has preprocessing (resizing aside), the network in the deploy form, and decoding (see
    :class:`DeployableDetector` and :class:`DeployableSegmentor` for its outputs). What it takes and gives, and the
    names of the classes, stand in the file's metadata.

    Args:
        config: Config that it was trained with.
        checkpoint: Its checkpoint, in train or deploy form.
        out: File to write, complete or not at all. OpenVINO has a second one with the weights, Core ML's is a folder.
        fmt: ``onnx``, ``torchscript``, ``openvino`` or ``coreml``.
        shape: Height and width of the input; default: what the config tests at.
        batch: Images at once.
        dynamic: Whether batch, height and width may vary (not for Core ML).
        half: Half precision inside; input and outputs stay float32.
        nms: Whether NMS is in the graph, for detectors (not for Core ML).
        argmax: Whether the graph gives classes instead of logits, for segmentors.
        calibration: Folder of images; given, the network is quantized to int8 (ONNX and OpenVINO).
        per_channel: Whether int8 has a scale for each channel of a kernel, or one for all of it, which costs accuracy.
        cfg_options: As ``--cfg-options``.
        trust: As for ``read_checkpoint``.

    Returns:
        The file's metadata (see ``ExportedFile.meta``), its ``bytes``, and in words its ``agreement`` with PyTorch in
        single precision on a synthetic image, for int8 on one of ``calibration``; None where it cannot be run here.

    Raises:
        MissingFileError: Config, checkpoint or calibration folder missing.
        ConfigError: The config cannot be read, or its model cannot be exported.
        CheckpointError: The checkpoint does not fit.
        ArgumentError: An option that the format or the model does not allow.
        MissingPackageError: The format needs a package that is not installed.
        DiskError: ``out`` cannot be written.
    """
    out = Path(out)
    _check_options(out, fmt, batch, dynamic, half, nms, calibration)
    cfg = read_config(config, cfg_options)
    model, checkpoint = load_trained(cfg, checkpoint, trust)
    reference = deployable = make_deployable(model, cfg, nms, argmax)
    height, width = shape or input_shape(cfg)
    if height < 1 or width < 1 or height % deployable.divisor or width % deployable.divisor:
        raise ArgumentError(f'The input size is {height}x{width}, but the model takes multiples of '
                            f'{deployable.divisor}.')
    if dynamic and deployable.divisor > 1:
        raise ArgumentError(f'With free sizes a graph cannot pad to multiples of {deployable.divisor}, as '
                            'data_preprocessor does. Name one size by --shape, or set its pad_size_divisor=1 by '
                            '--cfg-options.')
    if half and fmt in ('onnx', 'torchscript'):
        deployable = make_deployable(model, cfg, nms, argmax)
    channels = deployable.channels
    example = example_image((height, width), 2 if dynamic else batch, channels)  # a size of 1 would be taken for fixed
    if not dynamic:
        reference.fix_size(example)
        deployable.fix_size(example)
    if deployable is not reference:
        deployable.half_network()
    meta = dict(
        task='detection' if isinstance(deployable, DeployableDetector) else 'segmentation',
        shape=[None, channels, None, None] if dynamic else [batch, channels, height, width],
        input=f'{_ORDERS.get(channels, _OTHER_ORDER)}, (N, {channels}, H, W), float32 from 0 to 255, in the size that '
              'the network takes',
        outputs={name: _OUTPUTS[name] for name in deployable.output_names}, classes=class_names(cfg, checkpoint),
        config=Path(config).name, **deployable.meta)
    make_folder(out.parent)
    if fmt == 'torchscript':
        _write_torchscript(deployable, example, out, meta)
    elif fmt == 'coreml':
        _write_coreml(deployable, example, out, meta, half)
    else:
        proto = to_onnx(deployable, example, dynamic)
        proto.metadata_props.add(key=META, value=json.dumps(meta))
        if calibration is not None:
            proto = quantize(proto, calibration, (height, width), per_channel)
        if nms:
            proto = append_nms(proto, deployable.iou_threshold, deployable.max_per_img)
        write_onnx(proto, out) if fmt == 'onnx' else _write_openvino(proto, out, meta, half)
    if calibration is not None:  # what it was not scaled to tells nothing
        image = read_image(image_files(calibration)[0], (height, width), channels)
        example = torch.from_numpy(image.repeat(len(example), axis=0))
    tolerances = (5., 0.1) if half or calibration is not None else (0.5, 1e-3)
    agreement = None if fmt == 'coreml' else compare(ExportedFile(out), reference, example, *tolerances)
    return meta | dict(bytes=sum(file.stat().st_size for file in _files(out)), agreement=agreement)


def _check_options(out: Path, fmt: str, batch: int, dynamic: bool, half: bool, nms: bool,
                   calibration: str | Path | None) -> None:
    """Refuse early what would fail late."""
    if fmt not in SUFFIXES:
        raise ArgumentError(f'Unknown format {fmt!r}. Allowed are {", ".join(SUFFIXES)}.')
    if out.suffix != SUFFIXES[fmt]:
        raise ArgumentError(f'A file of format {fmt} ends in {SUFFIXES[fmt]}, got {str(out)!r}.')
    if batch < 1 or (batch > 1 and (dynamic or fmt == 'coreml')):
        raise ArgumentError('The batch is at least 1, and with free sizes or for Core ML it is not to be given; got '
                            f'{batch}.')
    if fmt == 'coreml' and (dynamic or nms):
        raise ArgumentError(f'Core ML gets no {"dynamic sizes" if dynamic else "NMS"} here. Leave it out'
                            f'{"" if dynamic else ", and let the app select boxes"}.')
    if calibration is not None and (half or fmt not in ('onnx', 'openvino')):
        raise ArgumentError('int8 is for ONNX and OpenVINO, and excludes half precision.')
    for name in {'onnx': ('onnx', 'onnxscript', 'onnxruntime'), 'openvino': ('onnx', 'onnxscript', 'openvino'),
                 'coreml': ('coremltools', ), 'torchscript': ()}[fmt]:
        require(name)


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


def _trace(model: Deployable, example: Tensor) -> torch.jit.ScriptModule:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)  # of checks of shapes, which a graph does without
        return torch.jit.trace(model, example, check_trace=False)


def _write_torchscript(model: Deployable, example: Tensor, out: Path, meta: dict) -> None:
    frozen = torch.jit.freeze(_trace(model, example))
    with atomic_file(out) as file:
        torch.jit.save(frozen, file, _extra_files={META: json.dumps(meta)})


def _write_openvino(proto, out: Path, meta: dict, half: bool) -> None:
    openvino = require('openvino')
    model = openvino.Core().read_model(proto.SerializeToString())
    model.set_rt_info(json.dumps(meta), META)
    with disk_errors(out), TemporaryDirectory(dir=out.parent) as folder:
        openvino.save_model(model, Path(folder, out.name), compress_to_fp16=half)
        os.replace(Path(folder, out.name).with_suffix('.bin'), out.with_suffix('.bin'))
        os.replace(Path(folder, out.name), out)


def _write_coreml(model: Deployable, example: Tensor, out: Path, meta: dict, half: bool) -> None:
    tools = require('coremltools')
    shape = tuple(example.shape)
    layout = {1: tools.colorlayout.GRAYSCALE, 3: tools.colorlayout.RGB}.get(shape[1])
    package = tools.convert(
        _trace(model, example), convert_to='mlprogram', minimum_deployment_target=tools.target.iOS16,
        inputs=[tools.TensorType(INPUT, shape) if layout is None else
                tools.ImageType(INPUT, shape, color_layout=layout)],
        outputs=[tools.TensorType(name) for name in model.output_names],
        compute_precision=tools.precision.FLOAT16 if half else tools.precision.FLOAT32, skip_model_load=True)
    package.input_description[INPUT] = meta['input']
    for name, text in meta['outputs'].items():
        package.output_description[name] = text
    package.user_defined_metadata[META] = json.dumps(meta)
    with disk_errors(out), TemporaryDirectory(dir=out.parent) as folder:
        package.save(str(Path(folder, out.name)))
        if out.exists():
            shutil.rmtree(out)
        os.replace(Path(folder, out.name), out)


def _files(out: Path) -> list[Path]:
    if out.is_dir():
        return [file for file in out.rglob('*') if file.is_file()]
    return [out, out.with_suffix('.bin')] if out.suffix == '.xml' else [out]


def example_image(shape: tuple[int, int], batch: int = 1, channels: int = 3) -> Tensor:
    """Smooth noise, (N, C, H, W), 0 to 255: to trace with, and to compare runtimes on."""
    coarse = torch.rand(batch, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    return 255 * F.interpolate(coarse, shape, mode='bicubic').clamp(0, 1)


@torch.inference_mode()
def compare(file: ExportedFile, model: Deployable, image: Tensor, pixels: float = 0.5, score: float = 1e-3) -> str:
    """How far a file's outputs agree with the model's, in words; tolerances as in :func:`share_of_boxes`."""
    answers = model(image)
    answers = [answer.numpy() for answer in (answers if isinstance(answers, tuple) else (answers, ))]
    expected, got = dict(zip(model.output_names, answers, strict=True)), file(image.numpy())
    if 'labels' in expected:
        share = share_of_boxes(expected, got, pixels, score)
        return f'{share:.2%} of the boxes are alike (class, within {pixels:g} px and {score:g} of the score)'
    if 'mask' in expected:
        return f'{np.mean(expected["mask"] == got["mask"]):.2%} of the pixels are alike'
    return ', '.join(f'{name} differ by at most {np.abs(got[name] - expected[name]).max():.2g}' for name in expected)


def share_of_boxes(expected: dict[str, np.ndarray], got: dict[str, np.ndarray], pixels: float = 0.5,
                   score: float = 1e-3) -> float:
    """Share of the expected boxes that are there: of the same class, sides within some pixels, and the score too.

    Args:
        expected: ``boxes`` (N, K, 4), ``scores`` (N, K), ``labels`` (N, K; -1: no box).
        got: The same of another implementation; the order does not matter.
        pixels: Largest difference of a side.
        score: Largest difference of scores.
    """
    is_alike = (np.abs(expected['boxes'][:, :, None] - got['boxes'][:, None]).max(-1) <= pixels) \
        & (np.abs(expected['scores'][:, :, None] - got['scores'][:, None]) <= score) \
        & (expected['labels'][:, :, None] == got['labels'][:, None])
    is_box = expected['labels'] >= 0
    return float(is_alike.any(-1)[is_box].mean()) if is_box.any() else 1.
