"""What the libraries below lack, and everything that an import of this package changes in them: see :func:`.apply`."""
import logging

from .mm_line import missing_libraries, refuse_import

if missing_libraries():
    refuse_import(missing_libraries())

from .loading import use_safe_loading
from .mmcv_ops import provide_mmcv_ops
from .switch import VARIABLE, is_on

_LOGGER = logging.getLogger('mobileone_mm')


def apply() -> None:
    """Make all changes to other libraries. ``import mobileone_mm`` calls it; a second call changes nothing.

    - **mmcv**, where it was installed without its compiled operators: ``mmcv.ops`` is a stand-in, found through
      ``sys.meta_path``, so that mmdet and mmseg import. ``nms`` and ``batched_nms`` work, other operators raise
      :class:`.MissingOperatorError` when they are used. What a library imports from ``mmcv.ops`` in a ``try`` raises
      ModuleNotFoundError unless it works, as without the stand-in.
      (:mod:`mobileone_mm.compat.mmcv_ops`, :mod:`mobileone_mm.compat.stand_in`)
    - **mmengine**, loading of local checkpoints: it never unpickles what could run code. On the onedl line this
      replaces ``mmengine.runner.checkpoint._safe_torch_load``, which falls back to unpickling anything; on the
      upstream line the loader of local files, which refuses mmengine's own checkpoints when a run is resumed.
      (:mod:`mobileone_mm.compat.loading`)
    - **mmengine**, loading of checkpoints by URL (``https://``, ``torchvision://``, ``open-mmlab://``, ``mmcls://``):
      the same, by replacing ``mmengine.runner.checkpoint.load_url``, which unpickles anything.
      (:mod:`mobileone_mm.compat.loading`)
    - **torch**'s list of what ``torch.load`` unpickles safely: mmengine's log history, and numpy's scalars and arrays
      are on it, so that mm's own tools read checkpoints of a training. Nothing of it runs code.
      (:func:`mobileone_mm.checkpoint.read.globals_in_mmengine_checkpoints`)
    - **torchvision**, where it is not installed, and only while :mod:`mobileone_mm.tasks.pretraining` imports
      mmpretrain: a stand-in, which is removed again. (:mod:`mobileone_mm.compat.torchvision`)

    A checkpoint without MobileOne loads as without these changes: the same file, content and log lines. One that holds
    more than tensors and mmengine's log history is refused with a :class:`.CheckpointError` that says what to do.

    What was changed is logged in one line at level INFO by the logger ``mobileone_mm``. Python shows it only where
    logging is set up for that, such as by ``logging.basicConfig(level='INFO')`` before the import.

    With ``MOBILEONE_MM_COMPAT=0`` in the environment nothing of this is done. MobileOne works as before; mmdet and
    mmseg then may need an mmcv with compiled operators, and mmpretrain needs torchvision.
    """
    if not is_on():
        return
    changes = [name for name, change in (('mmcv.ops is a stand-in', provide_mmcv_ops),
                                         ('mmengine loads checkpoints safely', use_safe_loading)) if change()]
    if changes:
        _LOGGER.info(f'{"; ".join(changes)}. {VARIABLE}=0 in the environment switches this off.')
