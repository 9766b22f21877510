"""How images are prepared for predictions: the test pipeline, in a form that mm's inferencers take."""
from copy import deepcopy

from mmengine.config import Config

from ..datasets.resizing import resized
from ..engine.config import any_dataset, inference_pipeline
from ..utils.errors import ConfigError
from ..utils.types import type_name

_PACK = {'mmdet': dict(type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'img_shape', 'scale_factor')),
         'mmseg': dict(type='PackSegInputs'), 'mmpretrain': dict(type='PackInputs')}
# What mm's inferencers look for, by exactly these names.
_SOUGHT = {'mmdet': ('LoadImageFromFile', ),
           'mmseg': ('LoadImageFromFile', 'LoadAnnotations', 'LoadDepthAnnotation', 'LoadOneDLAnnotations'),
           'mmpretrain': ('LoadImageFromFile', )}


def use_pipeline(cfg: Config, library: str, shape: tuple[int, int] | None = None) -> None:
    """Give a config a test dataset from which mm's inferencer of a library can take its pipeline.

    Args:
        cfg: Config to change. Without a test dataset, the pipeline is that of validation, or ``test_pipeline``.
        library: ``mmdet``, ``mmseg`` or ``mmpretrain``.
        shape: Height and width to resize images to, instead of what the pipeline says, which then crops nothing
            either. Without any pipeline, images are only loaded and resized.

    Raises:
        ConfigError: There is no pipeline, and no ``shape``; or it does not load images from files.
    """
    pipeline = deepcopy(inference_pipeline(cfg))
    if pipeline is None:
        if shape is None:
            raise ConfigError('The config has no test_dataloader, val_dataloader or test_pipeline, which would say how '
                              'to prepare images. Name the size that the network takes: --shape H W.')
        channels = (cfg.model.get('backbone') or {}).get('in_channels', 3)
        colour = {1: 'grayscale', 3: 'color'}.get(channels, 'unchanged')
        pipeline = [dict(type='LoadImageFromFile', color_type=colour), dict(type='Resize'), dict(_PACK[library])]
    for step in pipeline:
        name, kind = type_name(step), step['type']
        if name in _SOUGHT[library]:
            step['type'] = name
        elif not isinstance(kind, str):
            step['type'] = f'{kind.__module__}.{kind.__qualname__}'
    if not any(step['type'] == 'LoadImageFromFile' for step in pipeline):
        raise ConfigError(f'Can predict with a test pipeline that has LoadImageFromFile, got '
                          f'{", ".join(map(type_name, pipeline))}.')
    if shape is not None:
        pipeline = resized(pipeline, shape)
    dataset = any_dataset(cfg) or {}
    cfg.test_dataloader = dict(dataset=dict(type=dataset.get('type'), metainfo=dataset.get('metainfo'),
                                            pipeline=pipeline))
