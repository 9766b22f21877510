"""A trained model as a file for a runtime, and how far the file agrees with PyTorch."""
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor

from ..datasets.images import image_files, read_image
from ..engine.config import class_names, read_config
from ..engine.trained import load_trained
from ..utils.errors import ArgumentError, MissingPackageError, UnloadablePackageError, require
from ..utils.files import make_folder
from .formats import FORMATS, Format, format_named, format_of
from .formats.base import Job
from .reader import ExportedFile
from .wrappers import input_shape, make_deployable
from .wrappers.base import Deployable

_ORDERS = {1: 'images in gray', 3: 'images in RGB'}
_OTHER_ORDER = "images with their channels as the config's pipeline loads them (of PNG: BGR and alpha)"
_OUTPUTS = {
    'detection': {
        'boxes': 'x1, y1, x2, y2 in pixels of the input',
        'scores': '0 to 1; with labels of the box, else of each class; 0 where there is no box',
        'labels': 'index of the class; -1 where there is no box',
        'factors': 'what the scores are multiplied by already, such as centerness; mmdet applies score_thr and nms_pre '
                   'to scores / factors',
        'levels': 'number of the feature level of each box, because nms_pre is for each level',
    },
    'segmentation': {
        'logits': 'of each class, before softmax, at the size of the input',
        'mask': 'index of the class of each pixel of the input',
    },
    'classification': {'scores': 'probability of each class, 0 to 1'},
}


def export(config: str | Path, checkpoint: str | Path, out: str | Path, fmt: str | None = None, *,
           shape: tuple[int, int] | None = None, batch: int = 1, dynamic: bool = False, half: bool = False,
           nms: bool = False, argmax: bool = False, calibration: str | Path | None = None, per_channel: bool = True,
           backend: str | None = None, cfg_options: dict | None = None, trust: bool = False) -> dict:
    """Write a trained detector, segmentor or classifier for a runtime, and compare its outputs with PyTorch's.

    The graph has preprocessing (resizing aside), the network in the deploy form, and decoding (its outputs are those of
    :class:`.DeployableDetector`, :class:`.DeployableSegmentor` and :class:`.DeployableClassifier`). What it takes and
    gives, and the names of the classes, stand in the file's metadata.

    Args:
        config: Config that it was trained with.
        checkpoint: Its checkpoint, in train or deploy form.
        out: File to write, complete or not at all. Some formats have further files beside it; Core ML's is a folder.
        fmt: A name in ``mobileone_mm.deploy.formats.FORMATS``, what it does not allow is refused; default: by the end
            of ``out``.
        shape: Height and width of the input; default: what the config tests at.
        batch: Images at once.
        dynamic: Whether height and width may vary, and the batch where the format can.
        half: Half precision inside; input and outputs stay float32.
        nms: Whether NMS is in the graph, for detectors.
        argmax: Whether the graph gives classes instead of logits, for segmentors.
        calibration: Folder of images; given, the network is quantized to int8.
        per_channel: Whether int8 has a scale for each channel of a kernel, or one for all of it, which costs accuracy.
        backend: What the file is made for, where the format has several; default: the first, which is executed here.
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
    written = _check_options(out, fmt, batch, dynamic, half, nms, calibration)
    backend = _check_backend(written, backend, dynamic or nms or calibration is not None)
    cfg = read_config(config, cfg_options)
    model, checkpoint = load_trained(cfg, checkpoint, trust)
    reference = deployable = make_deployable(model, cfg, nms, argmax)
    height, width = fitting_shape(deployable, cfg, shape)
    if dynamic and deployable.divisor > 1:
        raise ArgumentError(f'With free sizes a graph cannot pad to multiples of {deployable.divisor}, as '
                            'data_preprocessor does. Name one size by --shape, or set its pad_size_divisor=1 by '
                            '--cfg-options.')
    if half and written.halves_network:
        deployable = make_deployable(model, cfg, nms, argmax)
    channels = deployable.channels
    example = example_image((height, width), 2 if dynamic else batch, channels)  # a size of 1 would be taken for fixed
    if not dynamic:
        with _sizes_refused(height, width):
            reference.fix_size(example)
        deployable.fix_size(example)
    if deployable is not reference:
        deployable.half_network()
    meta = _describe(deployable, [None, channels, None, None] if dynamic else [batch, channels, height, width])
    meta |= dict(classes=class_names(cfg, checkpoint), config=Path(config).name)
    meta |= deployable.meta | ({'backend': backend} if backend else {})
    if dynamic and (multiple := _multiple_of_sizes(reference)) > 1:
        meta |= dict(sizes=dict(multiple_of=multiple))
        with _sizes_refused(height, width):
            answers(reference, example)
    make_folder(out.parent)
    written.write(Job(deployable, example, out, meta, dynamic, half, calibration, per_channel, backend))
    if calibration is not None:  # what it was not scaled to tells nothing
        image = read_image(image_files(calibration)[0], (height, width), channels)
        example = torch.from_numpy(image.repeat(len(example), axis=0))
    example = example[:meta['shape'][0]]  # a format may keep the batch at one
    tolerances = (5., 0.1) if half or calibration is not None else (0.5, 1e-3)
    agreement = None
    if written.run and backend in (None, *written.backends[:1]):
        agreement = describe_agreement(answers(reference, example), ExportedFile(out)(example.numpy()), *tolerances)
    return meta | dict(bytes=sum(file.stat().st_size for file in written.files(out)), agreement=agreement)


@contextmanager
def _sizes_refused(height: int, width: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = ' '.join(str(error).split())[:200]
        raise ArgumentError(f'The model does not take an image of {height}x{width}: {reason}. Name another --shape; '
                            'networks whose maps are doubled and joined, such as RTMDet, take multiples of 32.'
                            ) from error


def _multiple_of_sizes(model: Deployable) -> int:
    """Of what both sides of an image have to be multiples, by trying; 1 where nothing works or all does."""
    for multiple in (1, 2, 4, 8, 16, 32, 64):
        height, width = (multiple * (2 * (side // (2 * multiple)) + 1) for side in (96, 128))  # odd multiples
        try:
            answers(model, example_image((height, width), 2, model.channels))
        except RuntimeError:
            continue
        return multiple
    return 1


def _describe(model: Deployable, shape: list[int | None]) -> dict:
    return dict(
        task=model.task, shape=shape,
        input=f'{_ORDERS.get(model.channels, _OTHER_ORDER)}, (N, {model.channels}, H, W), float32 from 0 to 255, in '
              'the size that the network takes',
        outputs={name: _OUTPUTS[model.task][name] for name in model.output_names})


def fitting_shape(model: Deployable, cfg: Config, shape: tuple[int, int] | None = None) -> tuple[int, int]:
    """Height and width of a graph's input: ``shape``, or else what the config tests at.

    Raises:
        ArgumentError: The model does not take this size.
        ConfigError: No size is given, and the config has none.
    """
    height, width = shape or input_shape(cfg)
    if height < 1 or width < 1 or height % model.divisor or width % model.divisor:
        raise ArgumentError(f'The input size is {height}x{width}, but the model takes multiples of {model.divisor}.')
    return height, width


def _check_options(out: Path, fmt: str | None, batch: int, dynamic: bool, half: bool, nms: bool,
                   calibration: str | Path | None) -> Format:
    """Refuse early what would fail late."""
    chosen = format_of(out.suffix) if fmt is None else format_named(fmt)
    if chosen is None:
        ends = ', '.join(f'{each.suffix} ({name})' for name, each in FORMATS.items())
        raise ArgumentError(f'No format ends as {str(out)!r} does. Allowed are {ends}.')
    if out.suffix != chosen.suffix:
        raise ArgumentError(f'A file of format {fmt} ends in {chosen.suffix}, got {str(out)!r}.')
    if batch < 1 or (batch > 1 and dynamic):
        raise ArgumentError(f'The batch is at least 1, and with free sizes it is not to be given; got {batch}.')
    asked = dict(batch=batch > 1, dynamic=dynamic, fp16=half, nms=nms, int8=calibration is not None)
    for option, remedy in chosen.refuses.items():
        if asked[option]:
            raise ArgumentError(f'--{option} is not for {chosen.title} here. {remedy}')
    if calibration is not None and half:
        raise ArgumentError('int8 excludes half precision. Leave one of the two out.')
    if calibration is not None:
        image_files(calibration)
    _check_packages(chosen)
    return chosen


def _check_packages(chosen: Format) -> None:
    """Name all that is missing, and the extra, which has the versions that were tried."""
    missing = {}
    for module, package in chosen.writers.items():
        try:
            require(module, package)
        except MissingPackageError as error:
            missing[package] = error
    if missing:
        first = next(iter(missing.values()))
        if isinstance(first, UnloadablePackageError):
            raise first
        raise MissingPackageError(f'{chosen.title} needs {", ".join(missing)}, not importable ({first.__cause__}). '
                                  f"Install what it needs: pip install 'mobileone_mm[{chosen.extra}]'") from first


def _check_backend(chosen: Format, backend: str | None, has_options: bool) -> str | None:
    if backend is None:
        return next(iter(chosen.backends), None)
    if backend not in chosen.backends:
        allowed = f'Allowed are {", ".join(chosen.backends)}.' if chosen.backends else 'Leave it out.'
        raise ArgumentError(f'--backend {backend} is not for {chosen.title}. {allowed}')
    if backend != chosen.backends[0] and has_options:
        raise ArgumentError(f'--backend {backend} goes without --dynamic, --nms and --int8, which were not tried with '
                            'it. Leave these out.')
    return backend


def example_image(shape: tuple[int, int], batch: int = 1, channels: int = 3) -> Tensor:
    """Smooth noise, (N, C, H, W), 0 to 255: to trace with, and to compare runtimes on."""
    coarse = torch.rand(batch, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    return 255 * F.interpolate(coarse, shape, mode='bicubic').clamp(0, 1)


@torch.inference_mode()
def answers(model: Deployable, image: Tensor) -> dict[str, np.ndarray]:
    """A model's outputs by their names, as an ExportedFile gives them."""
    outputs = model(image)
    outputs = outputs if isinstance(outputs, tuple) else (outputs, )
    return {name: output.numpy() for name, output in zip(model.output_names, outputs, strict=True)}


def largest_differences(expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> dict[str, float]:
    """Of each output the largest difference; for outputs in a fixed order, so not for boxes behind NMS."""
    return {name: float(np.abs(got[name] - expected[name]).max()) for name in expected}


def describe_agreement(expected: dict[str, np.ndarray], got: dict[str, np.ndarray], pixels: float = 0.5,
                       score: float = 1e-3) -> str:
    """How far a file's outputs agree with the expected ones, in words; tolerances as in :func:`.share_of_boxes`."""
    if 'labels' in expected:
        share = share_of_boxes(expected, got, pixels, score)
        return f'{share:.2%} of the boxes are alike (class, within {pixels:g} px and {score:g} of the score)'
    if 'mask' in expected:
        return f'{np.mean(expected["mask"] == got["mask"]):.2%} of the pixels are alike'
    return ', '.join(f'{name} differ by at most {value:.2g}'
                     for name, value in largest_differences(expected, got).items())


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
