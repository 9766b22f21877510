"""Whether tensors are what they seem."""
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_eager_on_cpu(x: Tensor, module: nn.Module) -> bool:
    """Whether ``x`` is an ordinary tensor on the CPU, computed at once and in its own precision.

    So neither in a graph, whose compiler chooses layouts and fuses by itself, nor in a transform of
    ``torch.func``, nor under autocast, nor a dual number. (There is no public way to ask for
    transforms.)
    """
    return x.device.type == 'cpu' and not torch.compiler.is_compiling() and not torch.jit.is_tracing() \
        and not torch.is_autocast_enabled('cpu') and not torch._C._functorch.is_functorch_wrapped_tensor(x) \
        and not is_transformed(module) and forward_ad.unpack_dual(x).tangent is None


def is_transformed(module: nn.Module) -> bool:
    """Whether ``torch.func`` has put the weights into a transform, such as vmap over several models.

    There is no public way to ask.
    """
    return torch._C._functorch.is_functorch_wrapped_tensor(next(module.parameters()))
