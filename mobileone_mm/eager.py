"""Whether torch computes at once, on ordinary tensors: not in a graph, not in a transform."""
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_in_graph() -> bool:
    """Whether a graph is being made, of which a compiler or a runtime chooses layouts and kernels."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_transformed(x: Tensor) -> bool:
    """Whether ``torch.func`` has put a tensor into a transform, such as vmap over several models.

    There is no public way to ask.
    """
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def has_transformed_weights(module: nn.Module) -> bool:
    """Whether the first weight of a module, and so in all likelihood every one, is in a transform of ``torch.func``."""
    return is_transformed(next(module.parameters()))


def is_eager_on_cpu(x: Tensor, module: nn.Module) -> bool:
    """Whether ``module`` computes ``x`` on the CPU at once, in its own precision, and without forward-mode gradients.

    There is no public way to ask for a level of forward-mode gradients.
    """
    return type(x) is Tensor and x.device.type == 'cpu' and not is_in_graph() and not torch.is_autocast_enabled('cpu') \
        and not is_transformed(x) and not has_transformed_weights(module) and forward_ad._current_level < 0
