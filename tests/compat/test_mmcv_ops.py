"""The stand-in for mmcv.ops: NMS agrees with the compiled one, the rest refuses, off if not needed."""
import sys

import numpy as np
import pytest
import torch

from mobileone_mm.compat import mmcv_ops
from mobileone_mm.compat.mmcv_ops import batched_nms, greedy_nms, has_compiled_ops, nms
from mobileone_mm.compat.stand_in import StandInFinder
from tests.support.runs import python

needs_no_ops = pytest.mark.skipif(has_compiled_ops(), reason='mmcv has compiled operators here')


def boxes_and_scores(seed, count, ties=False):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 100
    sizes = torch.rand(count, 2, generator=generator) * 40
    scores = torch.rand(count, generator=generator)
    if ties:
        scores = (scores * 5).round() / 5
    return torch.cat((corners, corners + sizes), 1), scores


def plain_nms(boxes, scores, threshold, offset=0):
    """The definition, box by box in Python."""
    kept = []
    for i in scores.sort(descending=True).indices.tolist():
        for j in kept:
            a, b = boxes[i], boxes[j]
            width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
            height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
            area = sum((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b))
            if width * height / (area - width * height) > threshold:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('threshold', [0.3, 0.5, 0.9])
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_is_its_definition(seed, threshold, offset):
    boxes, scores = boxes_and_scores(seed, 60)
    assert greedy_nms(boxes, scores, threshold, offset).tolist() == plain_nms(boxes, scores, threshold, offset)


@pytest.mark.parametrize('ties', [False, True])
def test_nms_over_several_blocks(ties):
    boxes, scores = boxes_and_scores(0, 300, ties)
    boxes[:, :2] = boxes[:, :2].where(torch.arange(300)[:, None] % 3 > 0, 50)  # a third of the boxes on one corner
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2])
    expected = plain_nms(boxes, scores, 0.4)
    assert len(expected) > mmcv_ops._NMS_BLOCK
    for max_num in (-1, 0, 1, 100, 1000):
        kept = expected if max_num < 0 else expected[:max_num]
        assert greedy_nms(boxes, scores, 0.4, max_num=max_num).tolist() == kept


def test_nms_of_integers_and_of_what_needs_gradients():
    boxes, scores = boxes_and_scores(0, 60)
    assert greedy_nms(boxes.long(), scores, 0.5).tolist() == plain_nms(boxes.long(), scores, 0.5)
    assert greedy_nms(boxes.clone().requires_grad_(), scores, 0.5).tolist() == plain_nms(boxes, scores, 0.5)


def test_nms_along_a_chain():
    """Every box overlaps the next one only, so that each decision hangs on the one before."""
    x = torch.arange(1000.)
    boxes, scores = torch.stack((3 * x, 0 * x, 3 * x + 4.6, 0 * x + 1), 1), -x
    assert greedy_nms(boxes, scores, 0.2).tolist() == list(range(0, 1000, 2))


def test_arguments_of_nms(monkeypatch):
    monkeypatch.setattr(mmcv_ops, 'torchvision_nms', lambda: None)
    boxes, scores = boxes_and_scores(0, 200)
    detections, kept = nms(boxes, scores, 0.5)
    assert torch.equal(detections, torch.cat((boxes[kept], scores[kept, None]), 1))
    assert torch.equal(nms(boxes, scores, 0.5, max_num=7)[1], kept[:7])
    assert torch.equal(nms(boxes, scores, 0.5, score_threshold=0.6)[1], kept[scores[kept] > 0.6])
    as_arrays = nms(boxes.numpy(), scores.numpy(), 0.5)
    assert isinstance(as_arrays[0], np.ndarray) and as_arrays[1].tolist() == kept.tolist()
    empty = nms(boxes[:0], scores[:0], 0.5)
    assert empty[0].shape == (0, 5) and empty[1].shape == (0, )
    assert empty[1].dtype == torch.long


def test_batched_nms_keeps_classes_apart():
    boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    scores, labels = torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 0, 1])
    assert batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.5))[1].tolist() == [1, 2]
    assert batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.5), True)[1].tolist() == [1]
    assert batched_nms(boxes, scores, labels, None)[1].tolist() == [1, 2, 0]
    assert batched_nms(boxes[:0], scores[:0], labels[:0], dict(type='nms', iou_threshold=0.5))[1].tolist() == []
    with pytest.raises(RuntimeError, match=r'soft_nms.*compiled operator'):
        batched_nms(boxes, scores, labels, dict(type='soft_nms', iou_threshold=0.5))


@pytest.mark.ops
@pytest.mark.parametrize('implementation', ['greedy', 'torchvision'])
@pytest.mark.parametrize('seed', range(20))
def test_agrees_with_mmcv_box_for_box(seed, implementation, monkeypatch):
    from mmcv import ops
    if implementation == 'greedy':
        monkeypatch.setattr(mmcv_ops, 'torchvision_nms', lambda: None)
    elif mmcv_ops.torchvision_nms() is None:
        pytest.skip('no torchvision')
    assert ops.nms.__module__.startswith('mmcv.ops')
    boxes, scores = boxes_and_scores(seed, 700, ties=seed % 2 == 1)
    labels = torch.randint(0, 8, (700, ), generator=torch.Generator().manual_seed(seed))
    for threshold in (0.3, 0.45, 0.7):
        for options in (dict(), dict(offset=1), dict(max_num=50), dict(score_threshold=0.3)):
            if implementation == 'torchvision' and seed % 2:
                continue  # it breaks ties in scores in another order
            for got, expected in zip(nms(boxes, scores, threshold, **options),
                                     ops.nms(boxes, scores, threshold, **options), strict=True):
                assert torch.equal(got, expected)
            for split_thr in (10000, 100):
                config = dict(type='nms', iou_threshold=threshold, split_thr=split_thr, **options)
                for agnostic in (False, True):
                    for got, expected in zip(batched_nms(boxes, scores, labels, config, agnostic),
                                             ops.batched_nms(boxes, scores, labels, config, agnostic), strict=True):
                        assert torch.equal(got, expected)


@needs_no_ops
def test_names_import_and_refuse_to_work():
    from mmcv import ops
    from mmcv.ops import DeformConv2d, point_sample
    from mmcv.ops.roi_align import roi_align

    class Derived(DeformConv2d):
        pass

    assert ops.nms is nms and ops.batched_nms is batched_nms
    assert not isinstance(torch.nn.Conv2d(1, 1, 1), DeformConv2d)
    for use in (lambda: Derived(3, 3, 1), lambda: point_sample(1), lambda: roi_align(1, 2), lambda: ops.RoIAlign()):
        with pytest.raises(RuntimeError, match=r'mmcv\.ops.*compiled operator.*--no-build-isolation'):
            use()
    with pytest.raises(AttributeError):
        _ = ops.__wrapped__


@pytest.mark.ops
def test_stays_out_of_the_way():
    import mmcv.ops
    assert mmcv.ops.__file__ and mmcv.ops.nms is not nms
    assert not any(isinstance(finder, StandInFinder) for finder in sys.meta_path)


def test_mmdet_and_mmseg_import_after_this_package():
    python('-c', 'import mobileone_mm; from mmdet.utils import register_all_modules as a; a(); '
                 'from mmseg.utils import register_all_modules as b; b()')
