"""A hook that compares the classes of heads and datasets."""
import re

from mmengine.registry import HOOKS

from ...datasets.classes import read_classes
from ...mobileone import MobileOne
from ...utils.errors import DataError
from ..unwrap import unwrapped
from .data_check import DataCheckHook

# Auxiliary heads are left out: they may have other classes, such as STDC's boundaries.
_HEAD = re.compile(r'(^|\.)(bbox_head|decode_head|head)(\.\d+)?$')


@HOOKS.register_module()
class NumClassesFitHook(DataCheckHook):
    """Refuses heads whose number of classes differs from the dataset's.

    They would end in a wrong index or in wrong metrics. Not checked are models without a
    :class:`.MobileOne`, auxiliary heads, and datasets that do not name their classes or are
    panoptic. To switch it off under our own tools: ``default_hooks.num_classes_fit=None``.

    Raises:
        DataError: Naming the head, both numbers and the classes.
    """

    def check(self, runner, split: str) -> None:
        """Check the classes of one split."""
        model = unwrapped(runner.model)
        metainfo = getattr(getattr(runner, f'{split}_dataloader').dataset, 'metainfo', None) or {}
        classes = None if 'thing_classes' in metainfo else metainfo.get('classes')
        if classes is None or not any(isinstance(module, MobileOne) for module in model.modules()):
            return
        classes = read_classes(classes, f'the {split} data')
        for name, module in model.named_modules():
            got = getattr(module, 'num_classes', None)
            # An RPN only separates objects from background, whatever the classes.
            if _HEAD.search(name) and got not in (None, len(classes)) and not type(module).__name__.endswith('RPNHead'):
                raise DataError(
                    f'model.{name}.num_classes is {got}, but the {split} data has {len(classes)} classes: '
                    f'{", ".join(map(str, classes[:6]))}{", ..." if len(classes) > 6 else ""}. Set the one to the '
                    'other: num_classes of all heads, or metainfo=dict(classes=(...)) of all datasets.')
