"""The deploy form follows from what a module holds: no flag, no random numbers, one fold per block."""
import copy
from collections import Counter

import pytest
import torch
import torch.fx
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

from mobileone_mm import ARCHS, MobileOne, MobileOneBlock, reparameterize_model
from mobileone_mm.arch import weight_shapes
from mobileone_mm.utils.errors import ArgumentError
from tests.support.reference import randomize

ARCH = ARCHS['s4'] | dict(num_blocks=(1, 2, 2, 1), num_se_blocks=(0, 0, 1, 1), num_conv_branches=2)
NUM_BLOCKS = 1 + 2 * sum(ARCH['num_blocks'])


def make(**kwargs):
    torch.manual_seed(0)
    return randomize(MobileOne(ARCH, out_indices=(0, 1, 2, 3), **kwargs)).double()


def image():
    return torch.randn(2, 3, 40, 56, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def blocks(model):
    return [module for module in model.modules() if isinstance(module, MobileOneBlock)]


def assert_equal(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a / b.abs().max(), b / b.abs().max(), rtol=0, atol=1e-10)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('affine', [False, True])
def test_shapes_by_arithmetic_are_those_of_the_model(arch, deploy, affine):
    with torch.device('meta'):
        model = MobileOne(arch, in_channels=4, deploy=deploy, norm_cfg=dict(type='BN', affine=affine))
    assert weight_shapes(ARCHS[arch], 4, deploy, affine) == {
        key: tuple(value.shape) for key, value in model.state_dict().items()}


def test_switching_all_blocks_one_by_one_switches_the_backbone():
    model = make().eval()
    expected = model(image())
    for number, block in enumerate(blocks(model)):
        assert not model.deploy
        block.switch_to_deploy()
        if number == 3:  # with some blocks switched, too, it loads its own state dict
            model.load_state_dict(copy.deepcopy(model).state_dict())
    assert model.deploy
    model.load_state_dict(model.state_dict())
    assert_equal(model(image()), expected)
    with pytest.raises(AttributeError):
        model.deploy = False


def test_attributes_of_other_modules_stay():
    class Detector(nn.Module):

        def __init__(self):
            super().__init__()
            self.backbone = make()

        def deploy(self):
            return 'mine'

    model = reparameterize_model(Detector())
    assert model.deploy() == 'mine' and model.backbone.deploy


def test_what_is_frozen_stays_frozen():
    model = make(frozen_stages=1)
    deployed = reparameterize_model(model)
    for name, module in deployed.named_children():
        assert {parameter.requires_grad for parameter in module.parameters()} == {name not in ('stage0', 'stage1')}
    assert all(not parameter.requires_grad
               for parameter in reparameterize_model(copy.deepcopy(model).requires_grad_(False)).parameters())


def test_fusing_draws_no_random_numbers():
    model, loaded = make().eval(), make(deploy=True)
    state = torch.get_rng_state()
    reparameterize_model(model)
    loaded.load_state_dict(model.state_dict())
    model.stage1[0].switch_to_deploy()
    model.switch_to_deploy()
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal(loaded(image()), model(image()))


@pytest.mark.parametrize('inplace', [False, True])
def test_each_block_is_folded_once(inplace, monkeypatch):
    model, folded = make(), Counter()
    fold = MobileOneBlock.fold
    monkeypatch.setattr(MobileOneBlock, 'fold', lambda self: folded.update([self]) or fold(self))
    deployed = reparameterize_model(model, inplace=inplace)
    assert set(folded.values()) == {1} and len(folded) == NUM_BLOCKS == len(blocks(deployed))


# --- torch.fx

def kinds(graph):
    modules = dict(graph.named_modules())
    return Counter(type(modules[node.target]) for node in graph.graph.nodes if node.op == 'call_module')


def test_fx_traces_through_the_deploy_form_only():
    model = make()
    for form in (model.train(), model.eval()):
        assert kinds(torch.fx.symbolic_trace(form)) == {MobileOneBlock: NUM_BLOCKS}
    deployed = reparameterize_model(model)
    with pytest.raises(ArgumentError, match=r'cannot trace a MobileOneBlock alone in its train or eval form'):
        torch.fx.symbolic_trace(model.stage0)
    assert nn.Conv2d in kinds(torch.fx.symbolic_trace(deployed.stage0))
    graph = torch.fx.symbolic_trace(deployed)
    assert MobileOneBlock not in kinds(graph)
    assert kinds(graph)[nn.Conv2d] == NUM_BLOCKS + 4 * sum(ARCH['num_se_blocks'])
    assert_equal(graph(image()), deployed(image()))


def test_fx_quantization_reaches_the_convolutions():
    deployed, x = reparameterize_model(make().float().eval()), image().float()
    prepared = quantize_fx.prepare_fx(deployed, get_default_qconfig_mapping('x86'), (x, ))
    prepared(x)
    quantized = quantize_fx.convert_fx(prepared)
    convolutions = [module for module in quantized.modules() if 'quantized' in type(module).__module__]
    assert len(convolutions) == NUM_BLOCKS + 4 * sum(ARCH['num_se_blocks'])
    assert not any(isinstance(module, nn.Conv2d) for module in quantized.modules())


@pytest.mark.parametrize('grad', [False, True])
def test_vmap_over_an_eval_model(grad):
    model, x = make().eval(), torch.stack([image(), image() + 1])
    with torch.set_grad_enabled(grad):
        for _ in range(2):  # cold, then with kept kernels
            got = torch.vmap(model)(x)
        assert_equal(got, [torch.stack(maps) for maps in zip(*map(model, x), strict=True)])


@pytest.mark.parametrize('grad', [False, True])
def test_vmap_over_the_weights_of_several_models(grad):
    """torch's recipe for ensembles."""
    models = [make().eval(), randomize(make()).eval()]
    parameters, buffers = torch.func.stack_module_state(models)

    def answer(parameters, buffers, x):
        return torch.func.functional_call(models[0], (parameters, buffers), (x, ))

    with torch.set_grad_enabled(grad):
        got = torch.vmap(answer, in_dims=(0, 0, None))(parameters, buffers, image())
        assert_equal(got, [torch.stack(maps) for maps in zip(*(model(image()) for model in models), strict=True)])
