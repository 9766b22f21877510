"""An exported file in a model's place, for mm's test loop, metrics, inferencers and visualizers."""
import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor

from ..datasets.check import datasets
from ..datasets.classes import read_classes
from ..datasets.resizing import final_size, keeps_ratio, resized
from ..engine.config import dataset_meta
from ..utils.errors import ArgumentError, ConfigError, DataError
from ..utils.types import task_library, type_name
from .reader import open_exported


@MODELS.register_module()
class ExportedModel(BaseModel):
    """A file written by ``tools/export.py``, which predicts as the detector, segmentor or classifier in it.

    Args:
        file: The file.
        test_cfg: Of the detector: thresholds, NMS and number of boxes, if the file has no NMS.
        takes_bgr: Whether images come in BGR, as mm's pipelines load them.

    Raises:
        MissingFileError: There is no such file.
        ExportedFileError: It cannot be read.
        MissingPackageError: Its runtime is not installed.
    """

    def __init__(self, file: str | Path, test_cfg: dict | None = None, takes_bgr: bool = True):
        super().__init__()
        self.file = open_exported(file)
        self.test_cfg = test_cfg
        self.takes_bgr = takes_bgr

    def forward(self, inputs: list[Tensor], data_samples: list[BaseDataElement], mode: str = 'predict') -> list:
        """Images, each (C, H, W), and their data samples -> the data samples with predictions."""
        if mode != 'predict':
            raise ArgumentError(f'An exported file can only predict, got mode={mode!r}.')
        add = dict(detection=self._add_boxes, segmentation=self._add_mask,
                   classification=self._add_scores)[self.file.meta['task']]
        at_once = self.file.meta['shape'][0] or 1  # free sizes: images may differ in theirs
        for start in range(0, len(inputs), at_once):
            samples = data_samples[start:start + at_once]
            batch = np.stack([self._image(x) for x in inputs[start:start + at_once]])
            if len(batch) < at_once:  # the last batch, filled up
                batch = np.concatenate([batch, np.repeat(batch[-1:], at_once - len(batch), axis=0)])
            answers = {name: torch.from_numpy(value) for name, value in self.file(batch).items()}
            for i, sample in enumerate(samples):
                answer = {name: value[i] for name, value in answers.items()}
                add(sample, **answer)
        return data_samples

    def test_step(self, data: dict) -> list:
        """What mm's test loop calls with a batch of the pipeline's."""
        samples = data['data_samples']
        if self.file.meta['task'] == 'detection':
            from mmdet.models.utils.misc import samplelist_boxtype2tensor

            # As mmdet's data preprocessor does; metrics and visualizers want tensors.
            samplelist_boxtype2tensor(samples)
        with torch.inference_mode():
            return self(data['inputs'], samples)

    val_step = test_step

    def _image(self, x: Tensor) -> np.ndarray:
        self.file.check_size(*x.shape[1:])
        channels = self.file.meta['shape'][1]
        if len(x) == 1 and channels == 3:  # gray becomes three channels, as by mmseg's mean of three
            x = x.expand(3, -1, -1)
        if len(x) != channels:
            raise DataError(f'The file takes images of {channels} channels, got {len(x)}. Set color_type of the test '
                            "pipeline's LoadImageFromFile, as in the training.")
        return (x.flip(0) if self.takes_bgr and channels == 3 else x).float().cpu().numpy()

    def _add_boxes(self, sample: BaseDataElement, boxes: Tensor, scores: Tensor, labels: Tensor | None = None,
                   factors: Tensor | None = None, levels: Tensor | None = None) -> None:
        if labels is None:
            sample.pred_instances = self._select(sample, boxes, scores, factors, levels)
            return
        is_box = labels >= 0
        factor = boxes.new_tensor(sample.scale_factor).repeat(2)
        sample.pred_instances = InstanceData(
            bboxes=boxes[is_box] / factor, scores=scores[is_box], labels=labels[is_box])

    def _select(self, sample: BaseDataElement, boxes: Tensor, scores: Tensor, factors: Tensor | None,
                levels: Tensor | None) -> InstanceData:
        """What mmdet's ``BaseDenseHead`` does after decoding, with its own functions."""
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
        from mmdet.models.utils import filter_scores_and_topk

        cfg = ConfigDict(self.test_cfg)
        if levels is None:
            sizes = self.file.meta['levels']
            levels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        # The thresholds are for scores before they are multiplied by their factors.
        scores = scores if factors is None else scores / factors[:, None]
        found = []
        for level in range(int(levels.max()) + 1):
            index = (levels == level).nonzero()[:, 0]
            results = dict(bboxes=boxes[index]) | ({} if factors is None else dict(score_factors=factors[index]))
            kept, labels, _, results = filter_scores_and_topk(
                scores[index], cfg.get('score_thr', 0), cfg.get('nms_pre', -1), results)
            found.append(InstanceData(scores=kept, labels=labels, **results))
        # It takes nothing of the head itself.
        return BaseDenseHead._bbox_post_process(
            None, InstanceData.cat(found), cfg, rescale=True, img_meta=sample.metainfo)

    def _add_mask(self, sample: BaseDataElement, logits: Tensor | None = None, mask: Tensor | None = None) -> None:
        if logits is not None:
            logits = F.interpolate(logits[None], sample.ori_shape[:2], mode='bilinear',
                                   align_corners=self.file.meta['align_corners'])[0]
            if len(logits) > 1:
                mask = logits.argmax(0, keepdim=True)
            else:  # mmseg too keeps probabilities then
                logits = logits.sigmoid()
                mask = (logits > self.file.meta['threshold']).long()
            sample.seg_logits = PixelData(data=logits)
        else:
            mask = F.interpolate(mask[None, None].float(), sample.ori_shape[:2], mode='nearest')[0].long()
        sample.pred_sem_seg = PixelData(data=mask)

    def _add_scores(self, sample: BaseDataElement, scores: Tensor) -> None:
        sample.set_pred_score(scores).set_pred_label(scores.argmax(0, keepdim=True))


def use_exported(cfg: Config, file: str | Path, cfg_options: dict | None = None) -> None:
    """Put an exported file into a config's model's place, and let the test pipeline give the size that it takes.

    Raises:
        ConfigError: The file is of another task, or has other classes than the config's data; or it is a classifier
            for images of another size than the test pipeline gives.
        ArgumentError: ``cfg_options`` are to change what is fixed in the file.
    """
    meta = open_exported(file).meta
    scope = dict(detection='mmdet', segmentation='mmseg', classification='mmpretrain')[meta['task']]
    if task_library(cfg) != scope:
        raise ConfigError(f'{str(file)!r} is for {meta["task"]}, and {cfg.filename!r} is not. Name the config that it '
                          f'was exported with ({meta["config"]}).')
    expected = dataset_meta(cfg).get('classes')
    expected = meta['classes'] if expected is None else read_classes(expected)
    if expected != meta['classes']:
        raise ConfigError(f'{str(file)!r} has {len(meta["classes"])} classes ({", ".join(meta["classes"][:3])}, ...), '
                          f'and {cfg.filename!r} has {len(expected)} ({", ".join(expected[:3])}, ...). Name the config '
                          f'that it was exported with ({meta["config"]}).')
    cfg.model = dict(type='ExportedModel', file=str(file), test_cfg=cfg.model.get('test_cfg'), _scope_='mmengine')
    for option in cfg_options or {}:
        is_open = 'init_cfg' in option or (option.startswith('model.test_cfg') and 'labels' not in meta['outputs'])
        if option.startswith('model.') and not is_open:
            raise ArgumentError(f'{option} is fixed in {str(file)!r}. Give it to tools/export.py, or name a '
                                'checkpoint.')
    cfg.data_preprocessor = None  # mmengine would hand it to the model
    # Nothing to average, and a runtime's session cannot be copied.
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or () if type_name(hook) != 'EMAHook']
    height, width = meta['shape'][2:]
    is_squashed = False
    for dataset in datasets(cfg.test_dataloader.dataset) if height is not None else ():
        size = final_size(dataset.pipeline)
        if size == (height, width):
            continue
        if scope == 'mmpretrain':  # how much of an image a crop shows is part of how it was trained
            raise ConfigError(f'{str(file)!r} takes images of {height}x{width}, and the test pipeline of '
                              f'{cfg.filename!r} gives {"x".join(map(str, size)) if size else "images of any size"}. '
                              'Export with the size of the pipeline, or change the pipeline.')
        kept = keeps_ratio(dataset.pipeline)
        dataset.pipeline = resized(dataset.pipeline, (height, width))
        is_squashed |= kept and not keeps_ratio(dataset.pipeline)
    if is_squashed:
        print_log(f'{str(file)!r} takes images of {height}x{width}, so they lose the proportions that the config keeps '
                  '(keep_ratio=True): metrics and predictions differ from those of its checkpoint. A file with free '
                  'sizes (tools/export.py --dynamic) keeps them.', logger='current', level=logging.WARNING)
