"""The size that a pipeline gives images, and pipelines that give another one."""
from collections.abc import Mapping, Sequence

from ..utils.types import type_name

_CROPS = ('CenterCrop', 'EfficientNetCenterCrop')
_SIZING = ('Resize', 'ResizeEdge', *_CROPS)


def final_size(pipeline: Sequence[Mapping]) -> tuple[int, int] | None:
    """Height and width of all images behind a pipeline: what the last step says that resizes, crops or pads.

    None where they depend on the image, or where no step says it.
    """
    size = longest = None
    for step in pipeline:
        name = type_name(step)
        if name in _CROPS:
            size = pair(step['crop_size'])[::-1]
        elif name == 'Resize' and step.get('scale'):
            # With keep_ratio, mm takes a scale for the longer and the shorter side, whichever these are.
            size, longest = (None, max(pair(step['scale']))) if step.get('keep_ratio') else (
                pair(step['scale'])[::-1], None)
        elif name in _SIZING:
            size = longest = None
        elif _pads(step) and longest and min(pair(step['size'])) >= longest:
            size = pair(step['size'])[::-1]
    return size


def resized(pipeline: Sequence[Mapping], shape: tuple[int, int]) -> list[Mapping]:
    """A pipeline that resizes images to height and width at once, where it resized them first; it crops nothing.

    Where it pads to a size behind a resize that keeps proportions, it goes on to do so, if this size is a square, which
    is what mm can fit any image into.
    """
    steps, is_resized = [], False
    is_padded = any(_pads(step) for step in pipeline) and shape[0] == shape[1]
    for step in pipeline:
        if _pads(step):
            steps.append(dict(step, size=tuple(reversed(shape))))
        elif type_name(step) not in _SIZING:
            steps.append(step)
        elif not is_resized:
            is_resized = True
            kept = {key: step[key] for key in ('backend', 'interpolation') if key in step}
            kind = step['type'] if type_name(step) == 'Resize' else 'Resize'
            steps.append(dict(type=kind, scale=tuple(reversed(shape)),
                              keep_ratio=is_padded and step.get('keep_ratio', False), **kept))
    return steps


def keeps_ratio(pipeline: Sequence[Mapping]) -> bool:
    """Whether a step of a pipeline resizes images and keeps their proportions."""
    return any(type_name(step) == 'Resize' and bool(step.get('keep_ratio')) for step in pipeline)


def _pads(step: Mapping) -> bool:
    return type_name(step) == 'Pad' and bool(step.get('size'))


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """A size that may be one number, for both sides."""
    return (size, size) if isinstance(size, int) else tuple(size)
