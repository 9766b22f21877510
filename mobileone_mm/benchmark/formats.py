"""One trained model in all formats of exported files: size, difference to PyTorch, metric and latency of each.

Timed is the runtime's call on one image in the size of the file's input, from an array to arrays. Preprocessing by mm
is not in it, nor is NMS, which a reader of the file does. Each file is held open by a process of its own, so that the
thread pools of runtimes do not meet, and a runtime that ends its process costs one row.
"""
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..datasets.images import image_files, read_image
from ..deploy.export import answers, fitting_shape, largest_differences
from ..deploy.formats import FORMATS, format_named
from ..deploy.runtimes import for_torch
from ..deploy.wrappers import make_deployable
from ..engine.config import read_config
from ..engine.trained import load_trained
from ..utils.errors import MobileOneError
from ..utils.files import atomic_file, make_folder
from ..utils.machine import cpu_name, installed_versions
from ..utils.worker import Worker
from .session import Session
from .timing import check_least, measure, progress, settled_ms
from .trained_model import Score, TrainedModel

_KEY_METRICS = ('bbox_mAP', 'mIoU', 'mAP')  # as the names of mm's metrics end


@dataclass
class Variant:
    """A row: PyTorch, or a file.

    Attributes:
        name: Key of ``FORMATS``, or ``pytorch``.
        title: For people.
        int8: Whether it is quantized.
        path: The file.
        size: In bytes; None: it was not exported.
        differences: Of each output the largest one to PyTorch.
        score: Of its test.
        timer: Times one forward pass, in milliseconds.
        times_ms: Latencies of the measured rounds.
        reasons: Why something is not there.
    """

    name: str
    title: str
    int8: bool = False
    path: Path | None = None
    size: int | None = None
    differences: dict[str, float] = field(default_factory=dict)
    score: Score | None = None
    timer: Callable[[], float] | None = None
    times_ms: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """For names of files."""
        return f'{self.name}_int8' if self.int8 else self.name

    @property
    def runs(self) -> bool:
        """Whether there is a file, and a runtime for it."""
        return self.size is not None and FORMATS[self.name].run is not None

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A step whose failure is a reason, and ends nothing."""
        try:
            yield
        except MobileOneError as error:
            self.reasons.append(f'{what}: {" ".join(str(error).split())}')

    def time_ms(self) -> float:
        """Milliseconds of one forward pass; nan from the first one that failed."""
        if self.timer is not None:
            with self.attempt('latency'):
                return self.timer()
            self.timer = None
        return float('nan')


def compare_formats(config: str | Path, checkpoint: str | Path, formats: Sequence[str] = tuple(FORMATS),
                    calibration: str | Path | None = None, *, images: int | None = None,
                    shape: tuple[int, int] | None = None, threads: int | None = None, rounds: int = 50,
                    warmup: int = 5, out_dir: str | Path = 'work_dirs/formats', cfg_options: dict | None = None,
                    trust: bool = False) -> dict:
    """Export a trained detector, segmentor or classifier in many formats, and test and time all of them.

    A format that is not installed, has no runtime here or fails is a row with its reason.

    Args:
        config: Config that it was trained with.
        checkpoint: Its checkpoint.
        formats: Names in :data:`..deploy.formats.FORMATS`.
        calibration: Folder of images; given, formats that have int8 get a second row.
        images: Test on the first so many of the test set, instead of all.
        shape: Height and width of the files' input; default: what the config tests at.
        threads: Threads of each runtime; default: torch's.
        rounds: Measured rounds, each of them one timed forward pass of everything, in random order.
        warmup: Rounds before these.
        out_dir: Folder; the exported files stay in ``files`` below it, what was printed on the way in ``logs``.
        cfg_options: As ``--cfg-options``.
        trust: As for ``read_checkpoint``.

    Returns:
        ``settings``, ``versions`` of the runtimes, and ``rows``, PyTorch first: all that is in the JSON. Sizes are in
        MiB (PyTorch: the weights of the deploy form), latencies in milliseconds, differences in the units of the
        outputs (boxes: pixels of the input), and None where something is missing.

    Raises:
        MissingFileError: Config, checkpoint, calibration folder or data missing.
        ConfigError: The config cannot be read or tested, or its model cannot be exported.
        CheckpointError: The checkpoint does not fit.
        ArgumentError: An option outside of its range.
        DiskError: ``out_dir`` cannot be written to.
        WorkerError: The test of the checkpoint ended with an error of another library.
    """
    check_least(1, images=images, threads=threads, rounds=rounds)
    check_least(0, warmup=warmup)
    for name in formats:
        format_named(name)
    calibrated = 0 if calibration is None else len(image_files(calibration))
    if threads is not None:
        torch.set_num_threads(threads)
    threads = torch.get_num_threads()
    files, logs = make_folder(Path(out_dir, 'files')), make_folder(Path(out_dir, 'logs'))

    cfg = read_config(config, cfg_options)
    model, loaded = load_trained(cfg, checkpoint, trust)
    deployable = make_deployable(model, cfg)
    shape = fitting_shape(deployable, cfg, shape)
    source = checkpoint
    if trust:
        source = files / 'checkpoint.pth'
        _write_plain(model, loaded, source)
    pytorch = Variant('pytorch', 'PyTorch', size=_size_of_weights(deployable))
    exported = list(_plan(formats, files, calibration is not None))
    for variant in progress([pytorch, *exported], 'Exporting and testing'):
        trained = partial(Worker, logs / f'{variant.key}.log', TrainedModel, config, source, cfg_options)
        if variant is pytorch:
            with trained() as worker:  # without it there is nothing to compare with, so its errors are the tool's
                pytorch.score = worker.call('test', None, logs / variant.key, images)
        else:
            with variant.attempt('export'), trained() as worker:
                _export_and_test(variant, worker, shape, calibration, logs, images)

    image = read_image(pytorch.score.first, shape, deployable.channels)
    deployable.fix_size(torch.from_numpy(image))
    expected = answers(deployable, torch.from_numpy(image))
    pytorch.timer = partial(settled_ms, for_torch(deployable, torch.from_numpy(image)))
    pytorch.differences = dict.fromkeys(expected, 0.)
    with ExitStack() as stack:
        for variant in progress([each for each in exported if each.runs], 'Opening the files'):
            with variant.attempt('latency'):
                worker = stack.enter_context(
                    Worker(logs / f'{variant.key}.log', Session, variant.path, image, threads))
                variant.differences = largest_differences(expected, worker.call('answers'))
                variant.timer = partial(worker.call, 'time_ms')
        measure([each for each in (pytorch, *exported) if each.timer], rounds, warmup)

    metric = _key_metric(pytorch.score.metrics)
    settings = dict(config=Path(config).name, checkpoint=Path(checkpoint).name, cpu=cpu_name(), device='cpu',
                    threads=threads, batch=1, rounds=rounds, warmup=warmup, metric=metric,
                    images=pytorch.score.images, calibration_images=calibrated)
    shape_text = 'x'.join(map(str, image.shape))
    return dict(settings=settings, versions=_versions(exported),
                rows=[to_row(each, metric, shape_text, list(expected)) for each in (pytorch, *exported)])


def _plan(formats: Sequence[str], files: Path, with_int8: bool) -> Iterator[Variant]:
    for name in dict.fromkeys(formats):
        each = FORMATS[name]
        for int8 in (False, True) if with_int8 and 'int8' not in each.refuses else (False, ):
            variant = Variant(name, f'{each.title} int8' if int8 else each.title, int8)
            variant.path = files / f'{variant.key}{each.suffix}'
            yield variant


def _export_and_test(variant: Variant, worker: Worker, shape: tuple[int, int], calibration: str | Path | None,
                     logs: Path, images: int | None) -> None:
    variant.size = worker.call('export', variant.path, variant.name, shape, calibration if variant.int8 else None)
    if not variant.runs:
        variant.reasons.append('exported only: there is no runtime for it on this system')
        return
    with variant.attempt('test'):
        variant.score = worker.call('test', variant.path, logs / variant.key, images)


def _write_plain(model: nn.Module, loaded: dict, path: Path) -> None:
    """A checkpoint of what was read with trust, for mmengine's Runner, which unpickles nothing that could run code."""
    meta = {key: value for key, value in (loaded.get('meta') or {}).items() if key == 'dataset_meta'}
    with atomic_file(path) as file:
        torch.save(dict(state_dict=model.state_dict(), meta=meta), file)


def _size_of_weights(model: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def _key_metric(metrics: dict[str, float]) -> str:
    """The one that stands for all."""
    names = (name for end in _KEY_METRICS for name in metrics if name.endswith(end))
    return next(names, next(iter(metrics)))


def _versions(variants: Sequence[Variant]) -> dict[str, str]:
    """Of torch, and of the runtimes of what ran, but for another package of the same module, as onnxruntime-gpu."""
    runtimes = dict.fromkeys(FORMATS[each.name].runtime for each in variants if each.times_ms)
    return {'torch': torch.__version__} | {name: version.partition('-')[0] for name, version
                                           in installed_versions(runtimes).items() if name != 'torch'}


def to_row(variant: Variant, metric: str, shape: str, outputs: Sequence[str]) -> dict:
    """A row of the report: numbers, or None, of ``metric``, and of each output's difference; ``shape`` as a text."""
    times = [] if np.isnan(variant.times_ms).any() else variant.times_ms
    return dict(
        model=variant.title, format=variant.name, int8=variant.int8, input=shape,
        size_mib=None if variant.size is None else variant.size / 2**20,
        **{f'{name}_difference': variant.differences.get(name) for name in outputs},
        # mmseg's is a float32 of numpy's; mm rounds to two or three digits
        metric=variant.score and round(float(variant.score.metrics[metric]), 4),
        median_ms=float(np.median(times)) if times else None,
        p95_ms=float(np.percentile(times, 95)) if times else None,
        reason='; '.join(variant.reasons), times_ms=times)
