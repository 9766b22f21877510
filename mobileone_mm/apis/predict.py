"""Predictions of a trained or exported model on the user's images: drawn, and as JSON."""
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.infer import BaseInferencer
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from rich.progress import track
from torch import nn

from ..datasets.images import image_files, load_image
from ..deploy.exported_model import use_exported
from ..deploy.reader import is_exported, open_exported
from ..engine.config import class_colours, class_names, inference_pipeline, read_config
from ..engine.trained import load_trained
from ..utils.errors import (
    ArgumentError,
    ConfigError,
    DataError,
    MissingFileError,
    MobileOneError,
    require,
    wants_tracebacks,
)
from ..utils.files import atomic_file, make_folder
from ..utils.types import task_library
from .classification_inferencer import ClassificationInferencer
from .inference_pipeline import use_pipeline


def predict(inputs: str | Path, config: str | Path, checkpoint: str | Path, out_dir: str | Path, score_thr: float = 0.3,
            device: str | None = None, cfg_options: dict | None = None, trust: bool = False,
            shape: tuple[int, int] | None = None) -> dict:
    """Predict on an image or on all images of a folder, by the inferencer and the visualizer of its library.

    Below ``out_dir``, ``vis`` gets the drawn images, and ``preds`` one JSON per image: ``file``, ``width``, ``height``;
    of a detector ``boxes``, a list of ``label``, ``score`` and ``box`` (x1, y1, x2, y2 in pixels of the image); of a
    segmentor ``mask``, a PNG beside it with the class index of each pixel, and ``shares``, the share of each class
    found; of a classifier ``scores``, the up to five best classes, best first, each with ``label`` and ``score``. An
    image that cannot be read, or that the model cannot take, is left out and the others go on.

    Args:
        inputs: Image or folder.
        config: Config that the model was trained with.
        checkpoint: Its checkpoint, or a file that ``tools/export.py`` wrote.
        out_dir: Folder to write to.
        score_thr: Least score of boxes to draw and to write; for detectors only.
        device: Where to run; default: a GPU if there is one.
        cfg_options: As ``--cfg-options``.
        trust: As for ``read_checkpoint``.
        shape: Height and width to resize images to, without a crop; default: as the config's test pipeline does.

    Returns:
        ``files``, the number of images done, and ``failed``, the others, each with its reason.

    Raises:
        MissingFileError: Config, checkpoint or images missing.
        ConfigError: The config cannot be read, is not of a detector, segmentor or classifier, or has no test
            pipeline.
        CheckpointError: The checkpoint does not fit.
        ExportedFileError: The exported file cannot be read.
        ArgumentError: An option is not allowed here, or images would overwrite each other's results.
        DiskError: ``out_dir`` cannot be written to.
    """
    files = image_files(inputs) if Path(inputs).is_dir() else [Path(inputs)]
    if not files[0].is_file():
        raise MissingFileError(f'There is no image {str(inputs)!r}.')
    stems = {}
    for file in files:
        if stems.setdefault(file.stem, file) is not file:
            raise ArgumentError(f'{stems[file.stem].name!r} and {file.name!r} would give one {file.stem}.json. '
                                'Rename one.')
    cfg = read_config(config, cfg_options)
    library = task_library(cfg)
    inferencer = build_inferencer(cfg, checkpoint, device, trust, cfg_options, shape)
    classes = inferencer.model.dataset_meta['classes']
    options = dict(pred_score_thr=score_thr, no_save_pred=True) if library == 'mmdet' else {}
    preds = make_folder(Path(out_dir, 'preds'))
    failed = {}
    for file in track(files, 'Predicting'):
        image = load_image(file)
        if image is None:
            failed[str(file)] = 'could not read it as an image'
            continue
        try:
            sample = inferencer(str(file), return_datasamples=True, out_dir=str(out_dir), **options)
        except Exception as error:  # whatever a pipeline, a network or a visualizer has against this image
            if wants_tracebacks() or (isinstance(error, MobileOneError) and not isinstance(error, DataError)):
                raise
            failed[str(file)] = f'{image.shape[1]}x{image.shape[0]} pixels: {_reason(error)}'
            continue
        sample = (sample['predictions'][0] if library == 'mmdet' else sample).cpu().numpy()
        answer = dict(file=file.name, width=image.shape[1], height=image.shape[0])
        if library == 'mmdet':
            answer['boxes'] = _boxes(sample, classes, score_thr)
        elif library == 'mmseg':
            answer |= _mask(sample, classes, preds / f'{file.stem}.png')
        else:
            answer['scores'] = _best(sample, classes)
        with atomic_file(preds / f'{file.stem}.json') as out:
            out.write(json.dumps(answer, indent=1).encode())
    return dict(files=len(files) - len(failed), failed=failed)


def _reason(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return text if isinstance(error, MobileOneError) else f'{type(error).__name__}: {text[:200]}'


def build_inferencer(cfg: Config, checkpoint: str | Path, device: str | None = None, trust: bool = False,
                     cfg_options: dict | None = None, shape: tuple[int, int] | None = None) -> BaseInferencer:
    """The inferencer of a config's library, with a checkpoint that has to fit whole, or with an exported file.

    The config becomes one of inference: its test dataset has the classes and the pipeline, as mm's inferencers look
    for them. Arguments are those of :func:`.predict`.
    """
    library = task_library(cfg)
    if library == 'mmdet':
        Inferencer, visualizer = require('mmdet.apis', 'onedl-mmdetection').DetInferencer, 'DetLocalVisualizer'
    elif library == 'mmseg':
        Inferencer, visualizer = require('mmseg.apis', 'onedl-mmsegmentation').MMSegInferencer, 'SegLocalVisualizer'
    elif library == 'mmpretrain':
        require('mobileone_mm.tasks.pretraining')  # which imports mmpretrain, also without torchvision
        Inferencer, visualizer = ClassificationInferencer, 'UniversalVisualizer'
    else:
        raise ConfigError(f'Can predict with configs of mmdet, mmseg and mmpretrain, got default_scope={library!r}.')
    init_default_scope(library)
    _check_device(device, checkpoint)
    exported = open_exported(checkpoint).meta if is_exported(checkpoint) else None
    fixed = exported['shape'][2:] if exported and exported['shape'][2] else None
    if fixed and shape not in (None, tuple(fixed), fixed):
        raise ArgumentError(f'{str(checkpoint)!r} takes images of {fixed[0]}x{fixed[1]}. Leave --shape out, or export '
                            'with this --shape.')
    use_pipeline(cfg, library, shape or (fixed if inference_pipeline(cfg) is None else None))
    if exported:
        use_exported(cfg, checkpoint, cfg_options)
        device = 'cpu'
    if not cfg.get('visualizer'):
        cfg.visualizer = dict(type=visualizer, name='visualizer')

    class FittingInferencer(Inferencer):

        def _init_model(self, cfg: Config, weights: str | None, device: str = 'cpu') -> nn.Module:
            loaded = None
            if exported:
                model, classes = MODELS.build(cfg.model), exported['classes']
            else:
                model, loaded = load_trained(cfg, checkpoint, trust)
                classes = class_names(cfg, loaded)
                _check_labels(model, classes)
            model.cfg = cfg
            model.dataset_meta = dict(classes=classes, palette=class_colours(cfg, classes, loaded))
            return model.to(device).eval()

        def _init_collate(self, cfg: Config) -> Callable:
            return pseudo_collate  # for one image at a time; mm's own look-up takes no dict(type='pseudo_collate')

    inferencer = FittingInferencer(cfg, device=device)
    inferencer.show_progress = False  # which mmseg 1.2.2 does not take as an argument
    return inferencer


def _check_labels(model: nn.Module, classes: list[str]) -> None:
    """A head with one output channel answers 0 or 1, which mmseg also lets train with one class."""
    if getattr(getattr(model, 'decode_head', None), 'out_channels', None) == 1 and len(classes) < 2:
        raise ConfigError('A decode_head with out_channels=1 gives the labels 0 and 1, and there is but one class, '
                          f"{classes[0]!r}. Name both, metainfo=dict(classes=('background', {classes[0]!r})), and set "
                          'num_classes=2.')


def _check_device(device: str | None, checkpoint: str | Path) -> None:
    try:
        kind = torch.device(device or 'cpu').type
    except RuntimeError:
        kind = None
    if kind is None or (kind == 'cuda' and not torch.cuda.is_available()):
        raise ArgumentError(f'There is no device {device!r} here. Leave --device out.')
    if kind != 'cpu' and is_exported(checkpoint):
        raise ArgumentError(f'Exported files run on the CPU here, got --device {device}. Leave it out.')


def _boxes(sample: BaseDataElement, classes: list[str], score_thr: float) -> list[dict]:
    found = sample.pred_instances
    return [dict(label=classes[label], score=float(score), box=box.tolist())
            for box, score, label in zip(found.bboxes, found.scores, found.labels, strict=True) if score >= score_thr]


def _best(sample: BaseDataElement, classes: list[str], most: int = 5) -> list[dict]:
    order = np.argsort(-sample.pred_score, kind='stable')[:most]
    return [dict(label=classes[label], score=float(sample.pred_score[label])) for label in order]


def _mask(sample: BaseDataElement, classes: list[str], path: Path) -> dict:
    mask = sample.pred_sem_seg.data[0].astype(np.int64)  # floats, of a head with one output channel
    with atomic_file(path) as file:
        file.write(cv2.imencode('.png', mask.astype(np.uint8 if len(classes) <= 256 else np.uint16))[1])
    labels, counts = np.unique(mask, return_counts=True)
    shares = {classes[label]: count / mask.size for label, count in zip(labels, counts, strict=True)}
    return dict(mask=path.name, shares=shares)
