"""Random norms, and the branch formula written a second time, to compare with."""
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mobileone_mm import MobileOneBlock


def randomize(model, seed=0):
    """Give every norm four random tensors: with fresh norms most wrong folds pass."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            channels = module.num_features
            module.running_mean.copy_(torch.randn(channels, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
            if module.affine:
                module.weight.data.copy_(torch.rand(channels, generator=generator) + 0.5)
                module.bias.data.copy_(torch.randn(channels, generator=generator) * 0.2)
    return model


def frozen_norm(norm, x):
    """BatchNorm's formula with running statistics; an Identity (after fuse_conv_bn) passes."""
    if not isinstance(norm, _BatchNorm):
        return x
    shape = (1, -1, 1, 1)
    x = (x - norm.running_mean.reshape(shape)) / (norm.running_var.reshape(shape) + norm.eps).sqrt()
    return x if norm.weight is None else x * norm.weight.reshape(shape) + norm.bias.reshape(shape)


def reference(module, x):
    """The branch formula, written with torch's functions, for a block, a stage or several stages."""
    if not isinstance(module, MobileOneBlock):
        for child in module:
            x = reference(child, x)
        return x
    out = 0
    for branch in module.conv_branches:
        for hook in branch.conv._forward_pre_hooks.values():  # prune's
            hook(branch.conv, ())
        conv = F.conv2d(x, branch.conv.weight, branch.conv.bias, module.stride, module.dilation *
                        (module.kernel_size // 2), module.dilation, module.groups)
        out = out + frozen_norm(branch.bn, conv)
    if module.scale_branch is not None:
        conv = F.conv2d(x, module.scale_branch.conv.weight, module.scale_branch.conv.bias, module.stride,
                        groups=module.groups)
        out = out + frozen_norm(module.scale_branch.bn, conv)
    if module.skip_branch is not None:
        out = out + frozen_norm(module.skip_branch, x)
    return module.activate(out if module.se is None else module.se(out))


def reference_maps(backbone, x):
    """All four feature maps of a backbone by the branch formula."""
    x = reference(backbone.stage0, x)
    maps = []
    for i in range(1, 5):
        x = reference(getattr(backbone, f'stage{i}'), x)
        maps.append(x)
    return maps
