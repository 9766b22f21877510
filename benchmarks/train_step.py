"""Time of a training step of the backbone: folded, by its branches, and of mmpretrain's MobileOne.

Forward and backward, norms live or frozen, in interleaved runs: python benchmarks/train_step.py
--arch s0 s2 Ratios are of medians over that of the fast path. Memory is that of the activations
that autograd keeps for the backward pass, and on a GPU the peak. mmpretrain is compared if it is
installed.
"""
import argparse
from functools import partial
from itertools import product

import torch
from interleaved import median_seconds
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mobileone_mm import ARCHS, MobileOne
from mobileone_mm.utils.errors import MissingPackageError, require


def peers(arch: str, norm_eval: bool) -> dict[str, nn.Module]:
    """The models to compare, in training mode."""
    models = {'fast': MobileOne(arch, norm_eval=norm_eval)}
    if norm_eval:  # with live norms there is nothing to switch
        models['plain'] = MobileOne(arch, norm_eval=norm_eval, fast_train=False)
    models |= mmpretrains(arch, norm_eval)
    for model in models.values():
        model.train()
    return models


def mmpretrains(arch: str, norm_eval: bool) -> dict[str, nn.Module]:
    """mmpretrain's MobileOne by its name, or nothing where it is not installed."""
    try:
        require('mobileone_mm.tasks.pretraining')  # which imports mmpretrain, also without torchvision
        return {'mmpretrain': require('mmpretrain.models.backbones').MobileOne(arch, norm_eval=norm_eval)}
    except MissingPackageError:
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
        return tensor

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', nargs='+', default=['s0', 's1', 's2', 's3', 's4'], choices=ARCHS)
    parser.add_argument('--norms', nargs='+', default=['frozen', 'live'], choices=['frozen', 'live'])
    parser.add_argument('--batch', nargs='+', type=int, default=[4])
    parser.add_argument('--size', type=int, default=320)
    parser.add_argument('--runs', type=int, default=15)
    args = parser.parse_args()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    name = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    table = Table(title=f'{name}, torch {torch.__version__}, {args.size}x{args.size}, medians of {args.runs} runs')
    columns = ('arch', 'norms', 'batch', 'path', 'time over fast', 'ms', 'MiB kept', 'MiB peak')
    for column in columns if device == 'cuda' else columns[:-1]:
        table.add_column(column, justify='left' if column in ('arch', 'norms', 'path') else 'right')
    for arch, norms, batch in product(args.arch, args.norms, args.batch):
        models = {key: model.to(device) for key, model in peers(arch, norms == 'frozen').items()}
        x = torch.randn(batch, 3, args.size, args.size, device=device)
        medians = median_seconds({key: partial(step, model, x) for key, model in models.items()}, args.runs,
                                 f'{arch}, {norms} norms, batch {batch}')
        for key, model in models.items():
            ratio = medians[key] / medians['fast']
            table.add_row(arch, norms, str(batch), key, f'{ratio:.2f}', f'{1000 * medians[key]:.0f}',
                          f'{kept_for_backward(model, x):.0f}',
                          *([f'{peak(model, x):.0f}'] if device == 'cuda' else []))
    Console(width=120).print(table)


if __name__ == '__main__':
    main()
