"""MobileOne on a GPU: training steps and forward passes in both layouts, and what CUDA asks of a network.

python benchmarks/gpu.py
Steps (forward, backward, no optimizer) with live and frozen norms, in float32 and with mm's AMP (float16), plain and
with a channels_last input, compiled and not, beside mmpretrain's MobileOne if it is installed; forward passes in the
eval and the deploy form; ratios over our plain one of the same row. Also: whether an eval forward waits for the GPU,
whether CUDA graphs capture it, and a step with SyncBN on NCCL with one process. Writes gpu.csv, .json and .png.
"""
import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from harness import finish, parse, timed
from mmengine.model import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from train_step import mmpretrains

from mobileone_mm import ARCHS, MobileOne
from mobileone_mm.reparameterize import reparameterize_model


def networks(arch: str, norm_eval: bool) -> dict[str, nn.Module]:
    """Ours and mmpretrain's, in training mode."""
    models = {'ours': MobileOne(arch, norm_eval=norm_eval)} | mmpretrains(arch, norm_eval)
    for model in models.values():
        model.cuda().train()  # mmpretrain's train() returns nothing
    return models


def step(model: Callable, x: Tensor, amp: bool) -> None:
    """Forward and backward."""
    with torch.autocast('cuda', torch.float16, enabled=amp):
        loss = model(x)[-1].float().mean()
    loss.backward()


@torch.inference_mode()
def forward(model: Callable, x: Tensor, amp: bool) -> None:
    """Forward pass."""
    with torch.autocast('cuda', torch.float16, enabled=amp):
        model(x)


def measured(kind: dict, functions: dict[str, Callable], rounds: int) -> list[dict]:
    """Rows of the functions that run; the others are named with their errors."""
    working = {}
    for name, function in functions.items():
        try:
            for _ in range(3):
                function()
            working[name] = function
        except RuntimeError as error:
            print(kind, name, 'fails:', str(error)[:200])
    return timed(kind, working, rounds) if working else []


def time_all(args: argparse.Namespace) -> list[dict]:
    """Rows of all steps and forward passes."""
    rows = []
    amps = [each == 'on' for each in args.amp]
    x = torch.randn(args.batch, 3, args.size, args.size, device='cuda')
    inputs = {'plain': x, 'channels_last': x.contiguous(memory_format=torch.channels_last)}
    for arch, norms, amp in product(args.arch, args.norms, amps):
        models = networks(arch, norms == 'frozen')
        functions = {f'{name}, {layout}': partial(step, model, data, amp)
                     for name, model in models.items() for layout, data in inputs.items()}
        if not args.no_compile:
            torch.compiler.reset()
            compiled = torch.compile(models['ours'])
            functions |= {f'ours compiled, {layout}': partial(step, compiled, data, amp)
                          for layout, data in inputs.items()}
        rows += measured(dict(what='step', arch=arch, norms=norms, batch=args.batch, amp=amp), functions, args.rounds)
    for arch, amp, batch in product(args.arch, amps, (1, args.batch)):
        evaluated = MobileOne(arch).cuda().eval()
        forms = {'eval': evaluated, 'deploy': reparameterize_model(evaluated)}
        functions = {f'{form}, {layout}': partial(forward, model, data[:batch], amp)
                     for form, model in forms.items() for layout, data in inputs.items()}
        rows += measured(dict(what='forward', arch=arch, norms='frozen', batch=batch, amp=amp), functions, args.rounds)
    return rows


def waits_for_the_gpu(model: nn.Module, x: Tensor) -> bool:
    """Whether an inference forward pass makes the host wait."""
    forward(model, x, False)
    torch.cuda.set_sync_debug_mode('error')
    try:
        forward(model, x, False)
        return False
    except RuntimeError as error:
        print('An eval forward waits:', error)
        return True
    finally:
        torch.cuda.set_sync_debug_mode('default')


def graph_difference(model: nn.Module, x: Tensor) -> float | str:
    """The largest difference between a captured CUDA graph and a forward pass, or why it cannot be captured."""
    with torch.inference_mode():
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                out = model(x)[-1]
        except RuntimeError as error:
            return str(error).split('\n')[0]
        graph.replay()
        torch.cuda.synchronize()
        return (out - model(x)[-1]).abs().max().item()


def sync_bn_difference(x: Tensor) -> float:
    """The largest difference of outputs and gradients of S0 with SyncBN on NCCL, one process, to BN."""
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='29511', RANK='0', WORLD_SIZE='1')
    distributed.init_process_group('nccl')
    torch.manual_seed(0)
    plain = MobileOne('s0').cuda()
    synced = MobileOne('s0').cuda()
    synced.load_state_dict(plain.state_dict())
    synced = convert_sync_batchnorm(synced)
    results = []
    for model in (plain, nn.parallel.DistributedDataParallel(synced)):
        model.train()
        out = model(x)[-1]
        out.square().mean().backward()
        model.eval()
        with torch.no_grad():
            results.append([out, model(x)[-1], *(parameter.grad for parameter in model.parameters())])
    distributed.destroy_process_group()
    return max(((a - b).abs().max() / a.abs().max().clamp(min=1e-6)).item() for a, b in zip(*results, strict=True))


def main() -> None:
    def add_options(parser):
        parser.add_argument('--arch', nargs='+', default=['s0', 's2'], choices=ARCHS)
        parser.add_argument('--batch', type=int, default=64)
        parser.add_argument('--size', type=int, default=320)
        parser.add_argument('--norms', nargs='+', default=['live', 'frozen'], choices=['live', 'frozen'])
        parser.add_argument('--amp', nargs='+', default=['off', 'on'], choices=['off', 'on'])
        parser.add_argument('--no-compile', action='store_true', help='without torch.compile')

    args = parse(__doc__, 30, add_options)
    if not torch.cuda.is_available():
        sys.exit('Error: There is no GPU that torch can use.')
    x = torch.randn(2, 3, args.size, args.size, device='cuda')
    checks = {}
    for name, model in (('eval', MobileOne('s0').cuda().eval()),
                        ('deploy', reparameterize_model(MobileOne('s0')).cuda().eval())):
        checks[f'{name}_forward_waits'] = waits_for_the_gpu(model, x)
        checks[f'{name}_cuda_graph'] = graph_difference(model, x)
    checks['sync_bn_relative_difference'] = sync_bn_difference(x)
    print(checks)
    finish('gpu', time_all(args), args, checks=checks)


if __name__ == '__main__':
    main()
