"""Non-maximum suppression in a graph of TorchScript."""
import torch
from torch import Tensor


@torch.jit.script
def select_boxes(boxes: Tensor, scores: Tensor, iou_threshold: float,
                 max_per_img: int) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy NMS per class, as mmcv's ``batched_nms``, on a batch and with outputs of a fixed size.

    Args:
        boxes: (N, A, 4), xyxy.
        scores: (N, A, C); 0 where there is no candidate.
        iou_threshold: A box that overlaps a better one of its class by more than this IoU is dropped.
        max_per_img: Number K of boxes to return at most.

    Returns:
        Boxes (N, K, 4), scores (N, K) and labels (N, K), best first; padded with boxes of 0, score 0, label -1.
    """
    num_boxes = boxes.shape[1]
    images = torch.arange(boxes.shape[0], device=boxes.device)
    by_class = scores.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    count = min(max_per_img, by_class.shape[1] * num_boxes)
    out_boxes = boxes.new_zeros(boxes.shape[0], count, 4)
    out_scores = scores.new_zeros(boxes.shape[0], count)
    out_labels = torch.full([boxes.shape[0], count], -1, dtype=torch.int64, device=boxes.device)
    for i in range(count):
        best, index = by_class.flatten(1).max(1)
        if not bool((best > 0).any()):
            break
        label = index // num_boxes
        box = boxes[images, index % num_boxes]
        is_real = best > 0
        out_scores[:, i] = best
        out_boxes[:, i] = box * is_real[:, None]
        out_labels[:, i] = torch.where(is_real, label, -1)
        width = torch.minimum(boxes[..., 2], box[:, None, 2]) - torch.maximum(boxes[..., 0], box[:, None, 0])
        height = torch.minimum(boxes[..., 3], box[:, None, 3]) - torch.maximum(boxes[..., 1], box[:, None, 1])
        overlap = width.clamp(min=0) * height.clamp(min=0)
        own_area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        keep = ~(overlap / (areas + own_area[:, None] - overlap) > iou_threshold)
        by_class[images, label] = by_class[images, label] * keep
        by_class[images, label, index % num_boxes] = 0.
    return out_boxes, out_scores, out_labels
