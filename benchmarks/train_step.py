"""A training step of the backbone, beside mmpretrain's MobileOne: python benchmarks/train_step.py --arch s0 s2

Forward and backward, norms live or frozen: as it comes (channels_last inside on the CPU, fast_train), by calling all
branches, also in the plain layout, and mmpretrain's, if that is installed. Memory is that of the activations that
autograd keeps for the backward pass, and on a GPU the peak. Writes train_step.csv, .json and .png.
"""
from functools import partial
from itertools import product

import torch
from harness import finish, parse, timed
from torch import Tensor, nn

from mobileone_mm import ARCHS, MobileOne
from mobileone_mm.utils.errors import MissingPackageError, require


def ways(arch: str, norm_eval: bool) -> dict[str, nn.Module]:
    """The models to compare, in training mode."""
    models = {'default': MobileOne(arch, norm_eval=norm_eval),
              'all branches': MobileOne(arch, norm_eval=norm_eval, fast_train=False),
              'all branches, plain layout': MobileOne(arch, norm_eval=norm_eval, fast_train=False, channels_last=False)}
    models |= mmpretrains(arch, norm_eval)
    for model in models.values():
        model.train()
    return models


def mmpretrains(arch: str, norm_eval: bool) -> dict[str, nn.Module]:
    """mmpretrain's MobileOne by its name; nothing, and a line that says so, where mmpretrain does not import."""
    try:
        require('mobileone_mm.tasks.pretraining')  # which imports mmpretrain, also without torchvision
        return {'mmpretrain': require('mmpretrain.models.backbones').MobileOne(arch, norm_eval=norm_eval)}
    except MissingPackageError as error:
        print('Without mmpretrain:', error)
        return {}


def step(model: nn.Module, x: Tensor) -> None:
    """One forward and backward pass."""
    model(x)[-1].mean().backward()


def kept_for_backward(model: nn.Module, x: Tensor) -> float:
    """MiB of activations that autograd keeps, each storage once."""
    parameters = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # else an output that is saved holds itself, for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(x)[-1]
    del out
    return sum(kept.values()) / 2**20


def peak(model: nn.Module, x: Tensor) -> float:
    """MiB at the peak of a step on a GPU, above what was there before (weights and gradients of all models)."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(model, x)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def main() -> None:
    def add_options(parser):
        parser.add_argument('--arch', nargs='+', default=['s0', 's1', 's2', 's3', 's4'], choices=ARCHS)
        parser.add_argument('--norms', nargs='+', default=['live', 'frozen'], choices=['live', 'frozen'])
        parser.add_argument('--batch', nargs='+', type=int, default=[4])
        parser.add_argument('--size', type=int, default=320)

    args = parse(__doc__, 10, add_options)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    rows = []
    for arch, norms, batch in product(args.arch, args.norms, args.batch):
        models = {key: model.to(device) for key, model in ways(arch, norms == 'frozen').items()}
        x = torch.randn(batch, 3, args.size, args.size, device=device)
        for row in timed(dict(arch=arch, norms=norms, batch=batch),
                         {key: partial(step, model, x) for key, model in models.items()}, args.rounds):
            model = models[row['way']]
            rows.append(row | {'MiB kept': kept_for_backward(model, x)}
                        | ({'MiB peak': peak(model, x)} if device == 'cuda' else {}))
    finish('train_step', rows, args)


if __name__ == '__main__':
    main()
