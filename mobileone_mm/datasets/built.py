"""Datasets as mm has built them: the ones inside of wrappers, and a sample of their images."""
from collections.abc import Iterator
from typing import Any


def inner_datasets(dataset: Any) -> Iterator[Any]:
    """A dataset, or those inside of wrappers such as ConcatDataset, RepeatDataset, MultiImageMixDataset, Subset."""
    inner = getattr(dataset, 'datasets', None)
    if inner is None:
        inner = [dataset.dataset] if hasattr(dataset, 'dataset') else None
    if inner is None:
        yield dataset
    else:
        for each in inner:
            yield from inner_datasets(each)


def is_kind(thing: Any, name: str) -> bool:
    """Whether a class of this name is among those of a thing. Asked by name, mm need not be imported for it."""
    return any(base.__name__ == name for base in type(thing).__mro__)


def is_coco(dataset: Any) -> bool:
    """As :func:`.is_coco_class`, of a built dataset."""
    return is_coco_class(type(dataset))


def is_coco_class(kind: Any) -> bool:
    """Whether datasets of a class find labels by the names in a COCO file.

    LVIS, which derives from it, does not; the entries of panoptic files are others.
    """
    names = {base.__name__ for base in getattr(kind, '__mro__', ())}
    return ('CocoDataset' in names and 'CocoPanopticDataset' not in names
            and hasattr(getattr(kind, 'COCOAPI', None), 'getCatIds'))


def spread(count: int, limit: int) -> list[int]:
    """At most ``limit`` of the indices below ``count``, at equal distances, the first and the last among them."""
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def transform_of(dataset: Any, name: str) -> Any | None:
    """The first transform in a dataset's pipeline with a class of this name among its own."""
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None) or []
    return next((transform for transform in transforms if is_kind(transform, name)), None)
