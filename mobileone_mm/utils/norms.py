"""The type of all batch norms."""
from torch.nn.modules.batchnorm import _BatchNorm

# BatchNorm2d, SyncBatchNorm, and what mmengine's revert_sync_batchnorm puts in the place of that. Their base class has
# no public name.
BatchNorm = _BatchNorm
