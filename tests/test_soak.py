"""Two thousand random operations on a small MobileOne; each forward is compared with the formula."""
import copy
import gc
import io
import random

import pytest
import torch

from mobileone_mm import ARCHS, MobileOne
from tests.support.reference import randomize, reference_maps

ARCH = ARCHS['s0'] | dict(num_blocks=(1, 1, 2, 1), width_multipliers=(.25, .25, .125, .125), num_conv_branches=2,
                          num_se_blocks=(0, 0, 1, 0))
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


class Soak:
    """A model and its optimizer, and the operations on them."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.model = randomize(MobileOne(ARCH, out_indices=(0, 1, 2, 3))).double()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.saved = copy.deepcopy(self.model.state_dict())

    def train(self):
        self.model.train()

    def eval(self):
        self.model.eval()

    def a_part_to_eval(self):
        getattr(self.model, f'stage{self.random.randrange(5)}').eval()

    def step(self):
        was_training = self.model.training
        self.model.train(self.random.random() < 0.7)
        self.model(self.images(2))[-1].float().square().mean().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.train(was_training)

    def load(self):
        self.model.load_state_dict(self.saved, assign=self.random.random() < 0.3)
        self.new_optimizer()

    def save(self):
        self.saved = copy.deepcopy(self.model.state_dict())

    def data_write(self):
        tensor = self.random.choice([*self.model.parameters()])
        self.random.choice([
            lambda: tensor.data.mul_(1.1), lambda: tensor.data.add_(0.01), lambda: tensor.data.neg_(),
            lambda: tensor.data.copy_(tensor.data.flip(0)), lambda: tensor.data[:1].mul_(1.5),
            lambda: setattr(tensor, 'data', tensor.data.clone())])()

    def buffer_write(self):
        name, buffer = self.random.choice([*self.model.named_buffers()])
        if 'running_var' in name:
            buffer.mul_(1.2)
        elif 'running_mean' in name:
            buffer.data.add_(0.1)

    def bfloat16(self):
        self.model.bfloat16()

    def half(self):
        """And back at once, because weights may exceed its largest number, 65504."""
        if not any(module.training for module in self.model.modules()):
            self.model.half()
            self.forward()
            self.model.double()

    def float(self):
        self.model.float()

    def double(self):
        self.model.double()

    def deepcopy(self):
        self.model = copy.deepcopy(self.model)
        self.new_optimizer()

    def pickle(self):
        file = io.BytesIO()
        torch.save(self.model, file)
        file.seek(0)
        self.model = torch.load(file, weights_only=False)
        self.new_optimizer()

    def to(self):
        self.model.to('cpu', memory_format=self.random.choice([torch.contiguous_format, torch.channels_last]))

    def forward(self):
        if self.model.training or any(m.training for m in self.model.modules()):
            self.model(self.images(2))
            return
        dtype = next(self.model.parameters()).dtype
        x = self.images(1)
        grad = self.random.random() < 0.3
        context = torch.enable_grad() if grad else self.random.choice([torch.no_grad, torch.inference_mode])()
        with context:
            got = self.model(x)
        with torch.no_grad():
            truth = copy.deepcopy(self.model).double()
            expected = reference_maps(truth, x.double())
        for output, feature in zip(got, expected, strict=True):
            scale = feature.abs().max()
            if dtype == torch.float16 and scale > 1e4:
                return
            assert (output.double() - feature).abs().max() <= TOLERANCE[dtype] * max(scale, 1e-3)
        self.compared += 1

    def new_optimizer(self):
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)

    def images(self, n):
        return torch.randn(n, 3, 32, 32).to(next(self.model.parameters()).dtype)

    compared = 0


ACTIONS = ['train', 'eval', 'eval', 'a_part_to_eval', 'step', 'load', 'save', 'data_write', 'data_write',
           'buffer_write',
           'bfloat16', 'half', 'float', 'double', 'double', 'deepcopy', 'pickle', 'to', *['forward'] * 12]


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(4))
def test_soak(seed):
    soak = Soak(seed)
    done, live = [], []
    for i in range(500):
        for action in soak.random.choices(ACTIONS, k=soak.random.randint(2, 6)):
            done.append(action)
            try:
                getattr(soak, action)()
            except AssertionError as error:
                raise AssertionError(f'stale after {done[-12:]}') from error
        if i % 50 == 49:
            # Repeated writes and steps would make numbers that prove nothing.
            soak.model = randomize(MobileOne(ARCH, out_indices=(0, 1, 2, 3)), i).double()
            soak.new_optimizer()
            soak.save()
            gc.collect()
            live.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
    assert soak.compared > 300
    assert live[-1] <= 1.05 * live[2]  # as many tensors as before: no models, kernels or copies are kept
