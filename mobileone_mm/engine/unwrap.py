"""The model inside its wrappers."""
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without wrappers for several devices or for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
