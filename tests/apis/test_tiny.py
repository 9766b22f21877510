"""The smallest run of all: a tiny detector and segmentor, trained by a tool, tested by a tool."""
from tests.support.runs import logged, python


def test_a_test_repeats_the_last_validation(tiny_detector, tiny_segmentor, shapes_root, tmp_path):
    for (config, checkpoint), metric in ((tiny_detector, 'coco/bbox_mAP'), (tiny_segmentor, 'mIoU')):
        out = tmp_path / metric.replace('/', '_')
        python('tools/test.py', config, checkpoint, '--work-dir', out, SHAPES_ROOT=shapes_root)
        assert logged(out, metric) == logged(checkpoint.parent, metric)
