"""Images with one channel or four: exported files take them as mm's pipeline loads them."""
import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mobileone_mm import MobileOne
from mobileone_mm.apis.predict import build_inferencer
from mobileone_mm.checkpoint.fit import adapt_state_dict
from mobileone_mm.datasets.images import read_image
from mobileone_mm.deploy.export import export
from mobileone_mm.deploy.reader import ExportedFile
from mobileone_mm.engine.config import read_config
from mobileone_mm.utils.errors import CheckpointError, DataError
from tests.support import tiny
from tests.support.reference import randomize
from tests.support.runs import python

CHANNELS = """
image = dict(type='LoadImageFromFile', color_type='{colour}')
test_pipeline = [*_base_.test_pipeline]
test_pipeline[0] = image
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model.update(backbone=dict(arch=arch, in_channels={channels}),
             data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb=False))
"""
# mm's data preprocessors take a mean of one or three values; one goes for all channels.
SETTINGS = {1: dict(colour='grayscale', channels=1, mean=[110.], std=[60.]),
            4: dict(colour='unchanged', channels=4, mean=[100.], std=[60.])}


def make(folder, kind, channels):
    text = tiny.DETECTOR if kind == 'detector' else tiny.SEGMENTOR
    config = tiny.write_config(folder, text, CHANNELS.format(**SETTINGS[channels]))
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = randomize(MODELS.build(cfg.model))
    torch.save(dict(state_dict=model.state_dict()), folder / 'a.pth')
    return config, folder / 'a.pth'


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Folders of PNG by their number of channels."""
    root = tmp_path_factory.mktemp('images')
    for channels in (1, 3, 4):
        (root / str(channels)).mkdir()
        for i in range(3):
            rng = np.random.default_rng(i)
            image = cv2.resize(rng.uniform(0, 255, (6, 8, channels)).astype(np.float32), (128, 128))
            cv2.imwrite(str(root / str(channels) / f'{i}.png'), image.clip(0, 255).astype(np.uint8))
    return root


@pytest.mark.parametrize('kind, channels', [('detector', 1), ('segmentor', 4),
                                            pytest.param('detector', 4, marks=pytest.mark.slow),
                                            pytest.param('segmentor', 1, marks=pytest.mark.slow)])
def test_files_of_other_channels(kind, channels, images, tmp_path):
    config, checkpoint = make(tmp_path, kind, channels)
    result = export(config, checkpoint, tmp_path / 'a.pt', 'torchscript')
    assert result['shape'] == [1, channels, 128, 128] and f'(N, {channels}, H, W)' in result['input']
    assert 'RGB' not in result['input']
    file = images / str(channels) / '0.png'
    whole, exported = (build_inferencer(read_config(config), each, 'cpu')(str(file), return_datasamples=True)
                       for each in (checkpoint, tmp_path / 'a.pt'))
    if kind == 'segmentor':
        torch.testing.assert_close(whole.seg_logits.data, exported.seg_logits.data, rtol=1e-3, atol=1e-3)
    else:
        whole, exported = (answer['predictions'][0].pred_instances for answer in (whole, exported))
        assert len(whole) == len(exported) > 0
        torch.testing.assert_close(whole.scores.sort().values, exported.scores.sort().values, rtol=0, atol=1e-3)
    with pytest.raises(DataError, match=f'takes images of {channels} channels, got 3. Set color_type'):
        cfg = read_config(config)
        inferencer = build_inferencer(cfg, tmp_path / 'a.pt')
        inferencer.model.test_step(dict(inputs=[torch.zeros(3, 128, 128)], data_samples=[whole_sample(kind)]))


def whole_sample(kind):
    from mmdet.structures import DetDataSample
    from mmseg.structures import SegDataSample
    meta = dict(ori_shape=(128, 128), img_shape=(128, 128), scale_factor=(1., 1.))
    return (DetDataSample if kind == 'detector' else SegDataSample)(metainfo=meta)


def test_gray_int8(images, tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    config, checkpoint = make(tmp_path, 'segmentor', 1)
    for name, options in (('float', {}), ('int8', dict(calibration=images / '1'))):
        export(config, checkpoint, tmp_path / f'{name}.onnx', 'onnx', **options)
    image = read_image(images / '1' / '0.png', (128, 128), 1)
    assert image.shape == (1, 1, 128, 128)
    logits = {name: ExportedFile(tmp_path / f'{name}.onnx')(image)['logits'] for name in ('float', 'int8')}
    assert 0 < np.abs(logits['int8'] - logits['float']).mean() < 0.5 * logits['float'].std()


def test_images_of_other_channels_are_refused(images):
    with pytest.raises(DataError, match=r"takes images of 4 channels, and '.*0\.png' has 3"):
        read_image(images / '3' / '0.png', (64, 64), 4)
    assert read_image(images / '3' / '0.png', (64, 64)).shape == (1, 3, 64, 64)


def test_weights_of_other_channels(tmp_path):
    for deploy in (False, True):
        weights = MobileOne('s0', deploy=deploy).state_dict()
        with pytest.raises(CheckpointError, match=r'These weights take images of 3 channels, and this MobileOne has '
                                                  r'in_channels=1\. Either load images in 3 channels .*grayscale'):
            adapt_state_dict(weights, MobileOne('s0', in_channels=1, deploy=deploy))
    with pytest.raises(CheckpointError, match="These are MobileOne 's0' weights"):
        adapt_state_dict(MobileOne('s0').state_dict(), MobileOne('s1', in_channels=1))


@pytest.mark.slow
def test_tools_with_gray_images(shapes_root, tmp_path):
    """Trained on gray images, exported, and the file tested."""
    settings = SETTINGS[1] | dict(train='train_pipeline = [*_base_.train_pipeline]\ntrain_pipeline[0] = image\n'
                                        'train_dataloader = dict(dataset=dict(pipeline=train_pipeline), **common)\n'
                                        'val_dataloader = test_dataloader = dict(\n'
                                        '    dataset=dict(pipeline=test_pipeline), **common)\n')
    config = tiny.write_config(tmp_path, tiny.DETECTOR, CHANNELS.format(**settings) + settings['train'])
    python('tools/train.py', config, '--work-dir', tmp_path / 'work', SHAPES_ROOT=shapes_root)
    checkpoint = tmp_path / 'work' / 'epoch_2.pth'
    result = python('tools/export.py', config, checkpoint, '--out', tmp_path / 'a.onnx', '--nms', '--int8',
                    shapes_root / 'JPEGImages', SHAPES_ROOT=shapes_root)
    assert 'images in gray, (N, 1, H, W)' in result.stdout
    for model in (checkpoint, tmp_path / 'a.onnx'):
        python('tools/test.py', config, model, '--work-dir', tmp_path / 'test', SHAPES_ROOT=shapes_root)
