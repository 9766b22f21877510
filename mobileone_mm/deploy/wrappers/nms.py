"""Non-maximum suppression of plain tensor operators, which every exporter takes."""
import torch
from torch import Tensor


def select_boxes(boxes: Tensor, scores: Tensor, iou_threshold: float, max_per_img: int,
                 num_candidates: int, as_loop: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy NMS per class, as mmcv's ``batched_nms``, on a batch and with outputs of a fixed size.

    One box is chosen after another, ``max_per_img`` times, which is exact, and never holds the IoU of all pairs.

    Args:
        boxes: (N, A, 4), xyxy.
        scores: (N, A, C); 0 where there is no candidate.
        iou_threshold: A box that overlaps a better one of its class by more than this IoU is dropped.
        max_per_img: Number K of boxes to return at most.
        num_candidates: Number of scores of an image above 0, at most; more are left out.
        as_loop: Whether an exported graph is to have a loop, where the exporter knows one, instead of
            ``max_per_img`` copies of its body.

    Returns:
        Boxes (N, K, 4), scores (N, K) and labels (N, K), best first; padded with boxes of 0, score 0, label -1.
    """
    num_classes = scores.shape[2]
    remaining, index = scores.flatten(1).topk(num_candidates)
    labels, places = index % num_classes, index // num_classes
    boxes = boxes.gather(1, places[..., None].expand(-1, -1, 4))
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    # The class as a third axis, along which boxes have the length 1: those of two classes do not overlap then.
    depth = labels[..., None].to(boxes.dtype)
    lower, upper = (torch.cat(each, dim=2).transpose(1, 2).contiguous()  # (N, 3, num_candidates)
                    for each in ((boxes[..., :2], depth), (boxes[..., 2:], depth + 1)))

    def choose(remaining: Tensor, _: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        score, number = remaining.max(1, keepdim=True)
        own = number[:, None].expand(-1, 3, -1)
        sides = (torch.minimum(upper, upper.gather(2, own)) - torch.maximum(lower, lower.gather(2, own))).relu()
        overlap = sides[:, 0] * sides[:, 1] * sides[:, 2]
        iou = overlap / (areas + areas.gather(1, number) - overlap)
        return torch.where(iou > iou_threshold, 0., remaining).scatter(1, number, 0.), (score, number)

    if as_loop and torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan  # which not all of torch's versions have

        _, chosen = scan(choose, remaining, boxes.new_zeros(max_per_img, 1))
        scores, numbers = (each[..., 0].T for each in chosen)
    else:
        chosen = []
        for _ in range(max_per_img):
            remaining, best = choose(remaining)
            chosen.append(best)
        scores, numbers = (torch.cat(each, dim=1) for each in zip(*chosen, strict=True))
    is_box = scores > 0
    boxes = boxes.gather(1, numbers[..., None].expand(-1, -1, 4)) * is_box[..., None]
    return boxes, scores, torch.where(is_box, labels.gather(1, numbers), -1)
