"""Detectors as one function from pixels to boxes and scores."""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...utils.errors import ConfigError
from ...utils.types import type_name
from .base import Deployable
from .nms import select_boxes


class DeployableDetector(Deployable):
    """A one-stage detector with a dense head: decoded boxes, and NMS if asked.

    Decoding is that of mmdet's ``BaseDenseHead``. Boxes are xyxy in pixels of the input.

    Shapes: (N, C, H, W) -> without NMS, ``boxes`` (N, A, 4) and ``scores`` (N, A, num_classes) of all A priors; of a
    head with score factors (FCOS, ATSS) also ``factors`` (N, A), by which ``scores`` are multiplied already, while
    mmdet applies ``score_thr`` and ``nms_pre`` before; with free sizes also ``levels`` (N, A), int64, because
    ``nms_pre`` is per level. With NMS, the K = ``test_cfg.max_per_img`` best, best first: ``boxes`` (N, K, 4),
    ``scores`` (N, K), ``labels`` (N, K), int64; where there are fewer, the rest has score 0 and label -1.

    Args:
        model: mmdet detector.
        nms: Whether the thresholds, ``nms_pre`` and NMS of its ``test_cfg`` are part of it.

    Raises:
        ConfigError: The detector decodes in another way, or has another kind of NMS.
    """

    task = 'detection'

    def __init__(self, model: nn.Module, nms: bool = False):
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

        head = getattr(model, 'bbox_head', None)
        if not isinstance(head, BaseDenseHead) or getattr(model, 'mask_head', None) is not None \
                or any(getattr(type(head), name) is not getattr(BaseDenseHead, name)
                       for name in ('predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')) \
                or getattr(head.loss_cls, 'custom_cls_channels', False):
            raise ConfigError(f'Cannot export {type(model).__name__} with {type(head).__name__}. Allowed are one-stage '
                              "detectors whose head decodes as mmdet's BaseDenseHead: SSDLiteHead, RetinaHead, ...")
        super().__init__(model)
        self.head = self.model.bbox_head
        self.nms = nms
        test_cfg = self.head.test_cfg or {}
        nms_cfg = dict(test_cfg.get('nms') or {})
        self.iou_threshold = nms_cfg.get('iou_threshold', 0.5)
        self.max_per_img = test_cfg.get('max_per_img', 100)
        if nms_cfg.get('max_num', -1) > 0:
            self.max_per_img = min(self.max_per_img, nms_cfg['max_num'])
        self.score_thr = test_cfg.get('score_thr', 0)
        self.nms_pre = test_cfg.get('nms_pre', -1)
        self.min_bbox_size = test_cfg.get('min_bbox_size', -1)
        others = [nms_cfg[key] for key in set(nms_cfg) - {'type', 'iou_threshold', 'max_num', 'split_thr'}]
        if nms and (type_name(nms_cfg) != 'nms' or any(others)):
            raise ConfigError(f'Cannot export this NMS: {nms_cfg}. Allowed is type "nms", per class, without offset. '
                              'Set model.test_cfg.nms, or leave NMS out of the file.')
        if nms and self.min_bbox_size > 0:
            raise ConfigError(f'Cannot export NMS with test_cfg.min_bbox_size={self.min_bbox_size}: mmdet measures '
                              'boxes in pixels of the original image, whose size a graph does not see. Set '
                              'model.test_cfg.min_bbox_size=0, or leave NMS out of the file.')
        self.level_sizes: list[int] | None = None  # with one size of the input, numbers of priors
        self.register_buffer('fixed_priors', None, persistent=False)
        self._keep_first_priors()
        self.output_names = ('boxes', 'scores', 'labels') if nms else self._raw_names()

    def fix_size(self, image: Tensor) -> None:
        """Keep the priors of one size of the input, instead of computing them from each input."""
        with torch.no_grad():
            maps = self.head(self.model.extract_feat(self.prepare(image)))[0]
        priors = self.head.prior_generator.grid_priors([x.shape[-2:] for x in maps], device=self.pixel_mean.device)
        self.fixed_priors = torch.cat(priors)
        self.level_sizes = [len(level) for level in priors]
        if not self.nms:
            self.output_names = self._raw_names()
            self.meta = dict(levels=self.level_sizes)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images -> the outputs that ``output_names`` names."""
        outputs = self.candidates(image)
        if not self.nms:
            return outputs
        boxes, scores = outputs
        count = self._num_candidates(scores)
        if self.level_sizes is None:  # of a small image there may be fewer
            boxes, scores = (F.pad(each, (0, 0, 0, -(-count // scores.shape[2]))) for each in outputs)
        return select_boxes(boxes, scores, self.iou_threshold, self.max_per_img, count, self.has_loops)

    def _num_candidates(self, scores: Tensor) -> int:
        """How many scores, (N, A, num_classes), are above 0 at most, after ``nms_pre``."""
        if self.nms_pre < 0:
            return scores.shape[1] * scores.shape[2]
        if self.level_sizes is None:
            return max(1, self.nms_pre * self.head.prior_generator.num_levels)
        return max(1, sum(min(self.nms_pre, size * scores.shape[2]) for size in self.level_sizes))

    def candidates(self, image: Tensor) -> tuple[Tensor, ...]:
        """All boxes, (N, A, 4), with their scores, (N, A, num_classes): with NMS, 0 where it is not to look.

        Without NMS, followed by the further outputs that ``output_names`` names.
        """
        height, width = image.shape[-2:]
        outputs = self.head(self.model.extract_feat(self.prepare(image)))
        levels = [self._scores(level) for level in outputs[0]]
        deltas = torch.cat([_flatten(level.float(), self.head.bbox_coder.encode_size) for level in outputs[1]], dim=1)
        priors = self._priors(outputs[0]).expand(deltas.shape[0], -1, -1)
        boxes = self.head.bbox_coder.decode(priors.flatten(0, 1), deltas.flatten(0, 1)).unflatten(0, deltas.shape[:2])
        scores = torch.cat(levels, dim=1)
        if getattr(self.head.bbox_coder, 'clip_border', True):
            boxes = torch.stack([side.clamp(0, limit) for side, limit in
                                 zip(boxes.unbind(-1), (width, height, width, height), strict=True)], dim=-1)
        more = []
        if len(outputs) > 2:
            factors = torch.cat([_flatten(level.float(), 1) for level in outputs[2]], dim=1).sigmoid()
            scores = scores * factors
            more.append(factors.squeeze(-1))
        if self.nms:
            if self.min_bbox_size >= 0:
                is_large = (boxes[..., 2:] - boxes[..., :2] > self.min_bbox_size).all(-1, keepdim=True)
                scores = scores * is_large
            return boxes, scores
        if self.level_sizes is None:
            more.append(torch.cat([(level[..., 0] < 0).long() + i for i, level in enumerate(levels)], dim=1))
        return boxes, scores, *more

    def _raw_names(self) -> tuple[str, ...]:
        return ('boxes', 'scores', *(['factors'] if self.has_factors else []),
                *(['levels'] if self.level_sizes is None else []))

    def _keep_first_priors(self) -> None:
        """Of each level the priors of its first place, of which all others are shifted copies.

        mmdet's generators write the device into a traced graph, which then runs nowhere else; buffers move with it.
        """
        generator = self.head.prior_generator
        channels = self.head.in_channels
        channels = [channels] * generator.num_levels if isinstance(channels, int) else channels
        with torch.no_grad():
            outputs = self.head([self.pixel_mean.new_zeros(1, count, 2, 3).to(self.dtype) for count in channels])
        self.has_factors = len(outputs) > 2
        self.register_buffer('one', self.pixel_mean.new_ones(1), persistent=False)
        firsts = generator.grid_priors([(1, 1)] * generator.num_levels, device=self.pixel_mean.device)
        for i, (first, stride) in enumerate(zip(firsts, generator.strides, strict=True)):
            shift = first.new_tensor(stride).repeat(first.shape[-1] // 2)  # of x, y or of x, y, x, y
            self.register_buffer(f'first_priors{i}', first, persistent=False)
            self.register_buffer(f'prior_shift{i}', shift, persistent=False)
        expected = generator.grid_priors([x.shape[-2:] for x in outputs[0]], device=self.pixel_mean.device)
        if not torch.allclose(self._priors(outputs[0]), torch.cat(expected)):
            raise ConfigError(f'Cannot export a detector with {type(generator).__name__}. Allowed are priors that lie '
                              "on a regular grid, such as mmdet's AnchorGenerator and MlvlPointGenerator.")

    def _priors(self, maps: Sequence[Tensor]) -> Tensor:
        """(A, 4) or (A, 2), for the score maps of all levels; as mmdet orders them: by row, column, prior."""
        if self.fixed_priors is not None:
            return self.fixed_priors
        priors = []
        for i, level in enumerate(maps):
            first, shift = getattr(self, f'first_priors{i}'), getattr(self, f'prior_shift{i}')
            height, width = level.shape[-2:]
            number = self.one.expand(height * width).cumsum(0) - 1
            y = torch.div(number, width, rounding_mode='floor')
            places = torch.stack((number - y * width, y), dim=-1).repeat(1, first.shape[-1] // 2) * shift
            priors.append((places[:, None] + first).flatten(0, 1))
        return torch.cat(priors)

    def _scores(self, cls_scores: Tensor) -> Tensor:
        """Of one level: (N, priors * channels, H, W) -> (N, H * W * priors, num_classes); with NMS, 0 what it drops."""
        scores = _flatten(cls_scores.float(), self.head.cls_out_channels)
        scores = scores.sigmoid() if self.head.use_sigmoid_cls else scores.softmax(-1)[..., :-1]
        if not self.nms:
            return scores
        scores = scores * (scores > self.score_thr)
        if self.nms_pre < 0:  # mmdet then cuts its sorted list at -1, which drops the least
            least = torch.where(scores > 0, scores, torch.inf).flatten(1).amin(1)
            return scores * (scores > least[:, None, None])
        if self.nms_pre == 0:
            return scores * 0
        # Filled up, because with free sizes a level may have fewer: then the least is 0, and all stay.
        flat = F.pad(scores.flatten(1), (0, self.nms_pre))
        # By its index: LiteRT's converter makes a sort of a topk whose indices nobody reads, and LiteRT has no sort.
        least = flat.gather(1, flat.topk(self.nms_pre).indices[:, -1:])
        return scores * (scores >= least[..., None])


def _flatten(level: Tensor, channels: int) -> Tensor:
    """(N, priors * channels, H, W) -> (N, H * W * priors, channels)."""
    maps = level.permute(0, 2, 3, 1)
    # With free sizes, ExecuTorch bounds the sizes of this view better than those of the next.
    if isinstance(level.shape[2], torch.SymInt) and level.shape[1] == channels:
        return maps.flatten(1, 2)
    return maps.flatten(1).unflatten(1, (-1, channels))
