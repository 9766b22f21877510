"""A stand-in for ``mmcv.ops`` where mmcv was installed without its compiled operators.

mmdet and mmseg import from ``mmcv.ops`` at import time, and SSD needs its NMS; but compiling mmcv
takes half an hour, and a plain ``pip install`` of it silently leaves the operators out. Here every
name imports; ``nms`` and ``batched_nms`` work; anything else raises when it is used. What is imported
in a ``try`` raises ModuleNotFoundError unless it works: :class:`.StandInFinder` says where not. An
mmcv with compiled operators is left alone.
"""
import functools
import importlib.machinery
import importlib.util
import sys

import numpy as np
import torch
from torch import Tensor

from ..utils.types import type_name
from .stand_in import StandInFinder

_NMS_BLOCK = 128


def has_compiled_ops() -> bool:
    """Whether the installed mmcv has its compiled operators; does not import mmcv."""
    mmcv = importlib.util.find_spec('mmcv')
    if mmcv is None:
        return False
    return importlib.machinery.PathFinder.find_spec('mmcv._ext', mmcv.submodule_search_locations) is not None


def provide_mmcv_ops() -> bool:
    """Make ``mmcv.ops`` importable where mmcv lacks compiled operators, by the stand-in.

    Returns:
        Whether anything changed.
    """
    if _FINDER in sys.meta_path or importlib.util.find_spec('mmcv') is None or has_compiled_ops():
        return False
    sys.meta_path.insert(0, _FINDER)
    return True


@torch.no_grad()
def greedy_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0, max_num: int = -1) -> Tensor:
    """Indices of the kept boxes, best first, by blocks of the best boxes that are left.

    What is kept of a block drops boxes from all that is left. So time is quadratic at worst, in vector
    steps, and memory linear.

    Args:
        boxes: (N, 4), xyxy.
        scores: (N,).
        iou_threshold: A box that overlaps a better one by more than this IoU is dropped.
        offset: 0 or 1, added to width and height (1 for inclusive pixel coordinates).
        max_num: Stop after so many boxes; -1 keeps all.
    """
    order = scores.sort(0, descending=True).indices
    corners = boxes[order].T.contiguous()
    areas = (corners[2] - corners[0] + offset) * (corners[3] - corners[1] + offset)
    left = torch.cat((corners, areas[None]))
    indices, kept, num_kept = torch.arange(len(order), device=boxes.device), [], 0
    while len(indices) and (max_num < 0 or num_kept < max_num):
        block, left = left[:, :_NMS_BLOCK], left[:, _NMS_BLOCK:]
        stays = _not_dropped(_overlap(block, block, iou_threshold, offset).triu(1))
        kept.append(indices[:_NMS_BLOCK][stays])
        num_kept += len(kept[-1])
        alive = ~_overlap(block[:, stays], left, iou_threshold, offset).any(0)
        left, indices = left[:, alive], indices[_NMS_BLOCK:][alive]
    kept = order[torch.cat(kept)] if kept else order
    return kept if max_num < 0 else kept[:max_num]


def _not_dropped(drops: Tensor) -> Tensor:
    """The boxes that greedy suppression keeps, (N,), where ``drops[i, j]`` says that i, if kept, drops j > i.

    From step to step one more box from the front is right for good, and often many more.
    """
    kept, before = torch.ones_like(drops[0]), None
    while before is None or not torch.equal(kept, before):
        before, kept = kept, ~(drops & kept[:, None]).any(0)
    return kept


def _overlap(a: Tensor, b: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Whether the IoU exceeds the threshold, (M, N), of boxes with their areas, (5, M) and (5, N)."""
    a = a[:, :, None]
    width = torch.minimum(a[2], b[2]).sub_(torch.maximum(a[0], b[0])).add_(offset).clamp_(min=0)
    height = torch.minimum(a[3], b[3]).sub_(torch.maximum(a[1], b[1])).add_(offset).clamp_(min=0)
    overlap = width.mul_(height)
    union = torch.add(a[4], b[4], out=height).sub_(overlap)
    return overlap / union > iou_threshold  # two empty boxes have no IoU, and both stay


@functools.cache
def torchvision_nms():
    """torchvision's NMS, or None where it is not installed, or built for another torch."""
    try:
        from torchvision.ops import nms
    except (ImportError, RuntimeError):
        return None
    return nms


def nms(boxes: Tensor | np.ndarray, scores: Tensor | np.ndarray, iou_threshold: float, offset: int = 0,
        score_threshold: float = 0, max_num: int = -1) -> tuple[Tensor | np.ndarray, Tensor | np.ndarray]:
    """``mmcv.ops.nms``: non-maximum suppression over all boxes, on torchvision where it imports.

    Args:
        boxes: (N, 4), xyxy.
        scores: (N,).
        iou_threshold: A box that overlaps a better one by more than this IoU is dropped.
        offset: 0 or 1, added to width and height.
        score_threshold: Above 0, boxes need a higher score than this.
        max_num: Keep at most so many; not positive keeps all.

    Returns:
        Kept boxes with their scores, (K, 5), best first, and their indices, (K,); arrays for arrays.
    """
    if isinstance(boxes, np.ndarray):
        results = nms(torch.from_numpy(boxes), torch.as_tensor(scores), iou_threshold, offset, score_threshold,
                      max_num)
        return tuple(result.numpy() for result in results)
    max_num = max_num if max_num > 0 else -1
    above = (scores > score_threshold).nonzero().squeeze(1) if score_threshold > 0 else None
    candidates, their_scores = (boxes, scores) if above is None else (boxes[above], scores[above])
    if offset == 0 and torchvision_nms() is not None:
        kept = torchvision_nms()(candidates, their_scores, iou_threshold)
        kept = kept[:max_num] if max_num > 0 else kept
    else:
        kept = greedy_nms(candidates.detach(), their_scores.detach(), iou_threshold, offset, max_num)
    kept = kept if above is None else above[kept]
    return torch.cat((boxes[kept], scores[kept, None]), dim=1), kept


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: dict | None,
                class_agnostic: bool = False) -> tuple[Tensor, Tensor]:
    """``mmcv.ops.batched_nms``: non-maximum suppression within each class.

    Args:
        boxes: (N, 4), xyxy.
        scores: (N,).
        idxs: Class of each box, (N,).
        nms_cfg: Arguments of :func:`.nms`, with ``type='nms'``; ``split_thr`` is the number of boxes (10,000)
            from which on the classes are taken one by one. None sorts by score and drops nothing.
        class_agnostic: Suppress across classes.

    Returns:
        Kept boxes with their scores, (K, 5), best first, and their indices, (K,).

    Raises:
        MissingOperatorError: Another type of NMS, or rotated boxes: those need mmcv's compiled operators.
    """
    if nms_cfg is None:
        scores, indices = scores.sort(descending=True)
        return torch.cat((boxes[indices], scores[:, None]), dim=1), indices
    nms_cfg = dict(nms_cfg)
    kind = type_name(nms_cfg.pop('type', 'nms'))
    if kind != 'nms' or boxes.shape[-1] != 4:
        _FINDER.placeholder(f'{_FINDER.name}.{kind} on boxes of {boxes.shape[-1]} numbers')()
    class_agnostic = nms_cfg.pop('class_agnostic', class_agnostic)
    split_thr = nms_cfg.pop('split_thr', 10000)
    if class_agnostic or not len(boxes):
        shifted = boxes
    else:
        # Far apart, boxes of different classes do not overlap. Rounding is part of mmcv's result.
        shifted = boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None]
    if len(boxes) < split_thr:
        kept = nms(shifted, scores, **nms_cfg)[1]
    else:
        max_num = nms_cfg.pop('max_num', -1)
        members = [(idxs == label).nonzero().squeeze(1) for label in idxs.unique()]
        kept = torch.cat([index[nms(shifted[index], scores[index], **nms_cfg)[1]] for index in members])
        kept = kept.sort().values
        kept = kept[scores[kept].sort(descending=True).indices]
        kept = kept[:max_num] if max_num > 0 else kept
    return torch.cat((boxes[kept], scores[kept, None]), dim=1), kept


_FINDER = StandInFinder(
    'mmcv.ops',
    'is a compiled operator, and this mmcv was installed without them. Install torch first, then compile mmcv against '
    'it (about half an hour): '
    'pip install --no-build-isolation --no-binary :all: --force-reinstall --no-deps onedl-mmcv',
    nms=nms, batched_nms=batched_nms)
