"""Two gloo processes under mmengine's DDP wrapper have the gradients of one with the joint batch.

SyncBN is not tested: DDP refuses it without a GPU. torchrun runs this file as a script in both
processes.
"""
import os
import sys

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.model.wrappers import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch.func import functional_call

from mobileone_mm import ARCHS, MobileOne
from tests.support.reference import randomize, reference_maps
from tests.support.runs import python

ARCH = ARCHS['s0'] | dict(num_blocks=(1, 1, 2, 1), num_conv_branches=2)
CASES = {
    'live norms': dict(),
    'frozen stages': dict(frozen_stages=2),
    'norm_eval': dict(norm_eval=True),
    'norm_eval and frozen stages': dict(norm_eval=True, frozen_stages=1),
    'with_cp': dict(with_cp=True),
}
STEPS = 3


class Model(BaseModel):

    def __init__(self, **backbone):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = randomize(MobileOne(ARCH, **backbone))

    def forward(self, inputs, mode='tensor'):
        maps = self.backbone(inputs)[-1]
        return dict(loss=(maps * torch.linspace(-1, 1, maps[0].numel(), dtype=maps.dtype).view_as(maps[0])).mean()) \
            if mode == 'loss' else maps


def make(**backbone):
    model = Model(**backbone).double().train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, OptimWrapper(torch.optim.SGD(trained, 0.1, momentum=0.9))


def batch(step):
    return torch.randn(4, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def assert_like_branches(backbone, x):
    expected = reference_maps(backbone, x)[-1]
    torch.testing.assert_close(backbone(x)[-1], expected, rtol=0, atol=1e-10 * expected.abs().max().item())


def one_of_two(folder):
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    results = {}
    for name, case in CASES.items():
        model, optimizer = make(**case)
        wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False,
                                            find_unused_parameters=False)
        for step in range(STEPS):
            wrapped.train()
            wrapped.train_step(dict(inputs=batch(step)[2 * rank:2 * rank + 2]), optimizer)
            wrapped.eval()
            with torch.no_grad():
                assert_like_branches(model.backbone, batch(9)[:1])
        results[name] = model.state_dict()
    torch.save(results, os.path.join(folder, f'{rank}.pt'))


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ddp')
    python('-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={20000 + os.getpid() % 20000}',
           __file__,
           folder, OMP_NUM_THREADS=1)
    return [torch.load(folder / f'{rank}.pt') for rank in range(2)]


@pytest.mark.parametrize('name', CASES)
def test_gradients_are_those_of_one_process(name, results):
    """After three steps with an inference in between, the parameters of both and of one process agree."""
    model, optimizer = make(**CASES[name] | dict(with_cp=False))
    start = [parameter.clone() for parameter in model.parameters()]
    statistics = [{key: value.clone() for key, value in model.named_buffers()} for _ in range(2)]
    for step in range(STEPS):
        if 'norm_eval' in name:
            model.train_step(dict(inputs=batch(step)), optimizer)
            continue
        # Live norms have the statistics of their device: the joint loss is the mean over the
        # halves.
        losses = [functional_call(model, buffers, half, dict(mode='loss'))['loss']
                  for half, buffers in zip(batch(step).split(2), statistics, strict=True)]
        optimizer.update_params(sum(losses) / 2)
    for rank in range(2):
        state_dict = results[rank][name]
        expected = model.state_dict() | statistics[rank]
        assert state_dict.keys() == expected.keys()
        for key, value in state_dict.items():
            torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-10)
    assert all(torch.equal(a, b) != b.requires_grad for a, b in zip(start, model.parameters(), strict=True))


if __name__ == '__main__':
    one_of_two(sys.argv[1])
