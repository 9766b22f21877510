"""docs/figures.py: the block as it is, charts of made-up results, and what it says where a result is missing."""
import json
from xml.etree import ElementTree

import pytest
from PIL import Image

from mobileone_mm import reparameterize_model
from mobileone_mm.block import MobileOneBlock
from tests.support.runs import python

SCRIPT = 'docs/figures.py'
MEASURED = dict(settings=dict(cpu='a CPU', device='cpu', threads=1, batch=1, rounds=3, warmup=1, baseline='s0',
                              layout='channels_last'), versions=dict(torch='2'), notes=[])


def write(path, report):
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(report))


def write_results(root):
    """What benchmarks write, with few rows: not all runtimes, and formats that have no latency."""
    write(root / 'peers' / 'benchmark.json', MEASURED | dict(rows=[
        dict(model=model, form=form, runtime='torch', layout='channels_last', input='1x3x8x8', median_ms=2., q1_ms=1.,
             q3_ms=3.) for model, form in (('s0', 'train'), ('s0', 'deploy'), ('mmpretrain s0', 'eval'))]))
    rows = [dict(model='PyTorch', format='pytorch', int8=False, metric=0.3, median_ms=9.),
            dict(model='ONNX int8', format='onnx', int8=True, metric=0.2, median_ms=3.),
            dict(model='Core ML', format='coreml', int8=False, metric=None, median_ms=None)]
    for name, metric in (('detection', 'coco/bbox_mAP'), ('segmentation', 'mIoU')):
        settings = MEASURED['settings'] | dict(config='a.py', metric=metric, images=2, calibration_images=3)
        write(root / f'formats-{name}' / 'formats.json', MEASURED | dict(
            settings=settings, rows=[row | dict(input='1x3x8x8') for row in rows]))
    write(root / 'train_step' / 'train_step.json', dict(settings=dict(machine='a CPU'), rows=[
        dict(arch='s0', norms=norms, batch=1, way=way, ratio=2., ratio_q1=1., ratio_q3=3.)
        for norms in ('live', 'frozen') for way in ('default', 'all branches', 'mmpretrain')]))


def write_demos(root):
    """What mm leaves of a training and a test."""
    for name, metric, images in (('demo', 'coco/bbox_mAP', 'images/{}.jpg'),
                                 ('demo-seg', 'mIoU', 'images/vis_data/vis_image/test_{}.jpg_1.png')):
        write(root / name / '1' / 'vis_data' / 'scalars.json', {})
        rows = [*(dict(loss=3 - i, iter=i, step=i) for i in (1, 2)), {metric: 0.5, 'step': 1}]
        (root / name / '1' / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, rows)))
        (root / name / '1' / '1.log').write_text('    PyTorch: 2\n')
        (root / name / 'config.py').touch()
        for shown in ('val_0009', 'val_0026', 'val_0033'):
            path = root / name / images.format(shown)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (32, 16), 'red').save(path)


def test_the_block_is_a_real_one(tmp_path):
    python(SCRIPT, 'block', '--out-dir', tmp_path)
    root = ElementTree.parse(tmp_path / 'block.svg').getroot()
    texts = [node.text for node in root.iter('{http://www.w3.org/2000/svg}text')]
    block = MobileOneBlock(48, 48, 3, groups=48, num_conv_branches=4)
    branches = [*block.conv_branches, block.scale_branch, block.skip_branch]

    def size(module):
        return f'{sum(parameter.numel() for parameter in module.parameters()):,}'

    assert texts.count('3x3 conv, BN') == 8 and texts.count('1x1 conv, BN') == texts.count('BN (skip)') == 2
    assert texts.count('3x3 conv, bias') == 2
    for branch in branches:  # in the train form, and in grey in the eval form
        assert texts.count(size(branch)) == 2 * [size(each) for each in branches].count(size(branch))
    deployed = size(reparameterize_model(block))
    assert {f'{size(block)} parameters', f'{deployed} parameters', deployed} <= set(texts)


def test_pictures_of_results(tmp_path):
    write_results(tmp_path / 'results')
    write_demos(tmp_path / 'demos')
    python(SCRIPT, '--results', tmp_path / 'results', '--demos', tmp_path / 'demos', '--out-dir', tmp_path / 'out')
    files = {path.name: path for path in (tmp_path / 'out').iterdir()}
    assert set(files) == {'block.svg', 'predictions.jpg', 'curves.png', 'latency.png', 'formats.png', 'training.png'}
    for name in set(files) - {'block.svg'}:
        with Image.open(files[name]) as image:
            assert image.width >= 1400 and 'transparency' not in image.info and image.mode in ('P', 'RGB')


@pytest.mark.parametrize('name, command', [
    ('block nothing', "There is no picture 'nothing'. There are block, predictions, "),
    ('curves', 'Make it: make demo'),
    ('predictions', 'Make it: make demo'),
    ('latency', 'Make it: python tools/benchmark.py --arch s0 s2 s4 --peers '),
    ('formats', 'Make it: python tools/compare_formats.py configs/detection/'),
    ('training', 'Make it: python benchmarks/train_step.py '),
])
def test_what_is_missing_is_one_line(name, command, tmp_path):
    result = python(SCRIPT, *name.split(), '--results', tmp_path, '--demos', tmp_path, '--out-dir', tmp_path / 'out',
                    check=False)
    assert result.returncode == 1 and command in result.stderr
    assert result.stderr.startswith('Error: ') and result.stderr.count('\n') == 1
    assert not (tmp_path / 'out').exists()
