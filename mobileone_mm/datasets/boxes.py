"""Boxes that a detector could learn from."""
from collections.abc import Iterable
from typing import Any


def nothing_to_learn(datasets: Iterable[Any]) -> str | None:
    """Why detection datasets, taken together, have no box that is learned; None if they have one.

    It reads what the datasets hold in memory, up to the first such box.

    Args:
        datasets: Built datasets whose infos have ``instances``.
    """
    images = ignored = 0
    for dataset in datasets:
        for index in range(len(dataset)):
            instances = dataset.get_data_info(index).get('instances')
            if instances is None or any(not instance.get('ignore_flag', 0) for instance in instances):
                return None
            ignored += len(instances)
            images += 1
    if ignored:
        return (f'All {ignored} boxes in {images} images are iscrowd=1, which mm ignores. Write iscrowd=0 for '
                'single objects')
    return (f'None of the {images} images has a box that mm keeps. It drops those of other categories than '
            'metainfo.classes, of no area, outside of the image, with ignore=1, and of an image_id that no image has')
