"""A hook that calibrates norms before training."""
from itertools import islice

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...mobileone import MobileOne
from ...utils.checks import check_int
from ..calibrate import calibrate_norms
from ..unwrap import unwrapped


@HOOKS.register_module()
class CalibrateNormsHook(Hook):
    """Before training, gives the backbone's norms the statistics of some training batches.

    For weights that were expanded from fused ones (``init_cfg=dict(type='Pretrained', expand=True,
    ...)``): see :func:`mobileone_mm.calibrate_norms`. A run that resumes skips it.

    Args:
        num_batches: Number of training batches, on each device.
    """

    def __init__(self, num_batches: int = 16):
        self.num_batches = check_int('num_batches', num_batches, 1)

    def before_train(self, runner) -> None:
        """Calibrate every MobileOne in the model."""
        if runner.iter > 0:
            return
        model = unwrapped(runner.model)
        backbones = [module for module in model.modules() if isinstance(module, MobileOne) and not module.deploy]
        for backbone in backbones:
            runner.logger.info(f'Calibrating the norms of MobileOne on {self.num_batches} batches')
            batches = islice(runner.train_dataloader, self.num_batches)
            calibrate_norms(backbone, (model.data_preprocessor(data, True)['inputs'] for data in batches))
