"""Reparameterization on eval(): reversible, never stale, traceable."""
import copy
import gc
import io
import pickle
import threading
import weakref

import pytest
import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.runner.checkpoint import load_state_dict as mmengine_load_state_dict
from torch import nn
from torch.nn.utils import prune

from mobileone_mm import ARCHS, MobileOne, MobileOneBlock, reparameterize_model
from tests.support.reference import randomize, reference, reference_maps

ARCH = ARCHS['s4'] | dict(num_blocks=(1, 2, 2, 1), num_se_blocks=(0, 0, 1, 1), num_conv_branches=2)


def make(seed=0, **kwargs):
    torch.manual_seed(seed)
    return randomize(MobileOne(ARCH, out_indices=(0, 1, 2, 3), **kwargs), seed).double()


def image(dtype=torch.float64):
    return torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(1)).to(dtype)


def assert_fresh(model, tolerance=1e-10):
    """The next forward equals the branch formula on the current weights, with and without gradients."""
    x = image(model.stage0.conv_branches[0].conv.weight.dtype)
    with torch.no_grad():
        expected = reference_maps(model, x)
        scale = max(feature.abs().max() for feature in expected)
        got = model(x)
        one_by_one = reference_free_forward(model, x)
    for outputs in (got, one_by_one, model(x)):
        for output, feature in zip(outputs, expected, strict=True):
            torch.testing.assert_close(output / scale, feature / scale, rtol=0, atol=tolerance)


def reference_free_forward(model, x):
    """Through the stages themselves, without MobileOne.forward."""
    maps = []
    for i in range(5):
        x = getattr(model, f'stage{i}')(x)
        maps.append(x)
    return maps[1:]


def other_state(model):
    return make(seed=7).to(next(model.parameters()).dtype).state_dict()


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(image())[-1].square().mean().backward()
    optimizer.step()


def on_weight(write):
    return lambda model: write(model.stage3[1].conv_branches[1].conv.weight)


def swap(model):
    """As EMAHook does."""
    for parameter, other in zip(model.parameters(), make(seed=7).parameters(), strict=True):
        tmp = parameter.data.clone()
        parameter.data.copy_(other.data)
        other.data.copy_(tmp)


def mean_teacher(model):
    for parameter, other in zip(model.parameters(), make(seed=7).parameters(), strict=True):
        parameter.data.mul_(0.999).add_(other.data, alpha=0.001)


def replace_parameter(model):
    conv = model.stage1[1].conv_branches[0].conv
    conv.weight = nn.Parameter(conv.weight.detach() * 2)


def replace_module(model):
    norm = model.stage1[1].conv_branches[0]._modules.pop('bn')
    model.stage1[1].conv_branches[0].bn = randomize(nn.BatchNorm2d(norm.num_features), 3).double().eval()


WRITES = {
    'load_state_dict': lambda m: m.load_state_dict(other_state(m)),
    'load_state_dict(assign=True)': lambda m: m.load_state_dict(other_state(m), assign=True),
    "mmengine's load_state_dict": lambda m: mmengine_load_state_dict(m, other_state(m), strict=True),
    'optimizer step': step,
    'EMA swap': swap,
    'mean teacher': mean_teacher,
    'data.copy_': on_weight(lambda w: w.data.copy_(w.data.flip(0))),
    'data.mul_': on_weight(lambda w: w.data.mul_(1.5)),
    'data.add_': on_weight(lambda w: w.data.add_(1e-3)),
    'data.neg_': on_weight(lambda w: w.data.neg_()),
    'every other element negated': on_weight(lambda w: w.data[:, 1::2].neg_()),
    'one element': on_weight(lambda w: w.data.view(-1)[-1:].add_(1)),
    'two elements swapped': on_weight(lambda w: w.data.copy_(w.data[:, torch.arange(w.shape[1]) ^ 1])),
    'one up, one down': on_weight(lambda w: (w.data[:, 0::2].add_(1), w.data[:, 1::2].sub_(1))),
    'epsilon': lambda m: [setattr(norm, 'eps', norm.eps * 1000) for norm in m.modules()
                          if isinstance(norm, nn.BatchNorm2d)],
    'pruned': lambda m: (prune.l1_unstructured(m.stage2[1].conv_branches[0].conv, 'weight', 0.5),
                         m.stage2[1].conv_branches[0].conv.weight_orig.data.mul_(2)),
    'a low bit of one element': on_weight(lambda w: w.data.view(-1)[:1].view(torch.int64).add_(1 << 24)),
    'rows swapped': on_weight(lambda w: w.data.copy_(w.data.roll(1, 0))),
    'columns swapped': on_weight(lambda w: w.data.copy_(w.data.flip(1))),
    'a last bit of a small tensor':
        lambda m: m.stage1[0].scale_branch.bn.weight.data[:1].view(torch.int64).add_(1 << 24),
    'data replaced': on_weight(lambda w: setattr(w, 'data', w.data * 2)),
    'data transposed': lambda m: setattr(m.stage2[3].conv_branches[0].conv.weight, 'data',
                                         m.stage2[3].conv_branches[0].conv.weight.data.transpose(0, 1)),
    'through numpy': on_weight(lambda w: w.detach().numpy().__imul__(1.5)),
    'running mean': lambda m: m.stage2[0].scale_branch.bn.running_mean.data.add_(0.1),
    'running variance': lambda m: m.stage2[2].skip_branch.running_var.data.mul_(2),
    'norm weight': lambda m: m.stage0.conv_branches[0].bn.weight.data.mul_(2),
    'Parameter replaced': replace_parameter,
    'module replaced': replace_module,
    'fuse_conv_bn': lambda m: fuse_conv_bn(m),
    'train and back': lambda m: (m.train()(image()), m.eval()),
}


@pytest.mark.parametrize('name', WRITES)
def test_never_stale(name):
    model = make().eval()
    assert_fresh(model)
    WRITES[name](model)
    assert_fresh(model)
    WRITES[name](model)  # a second write of the same kind, seen from a warm cache
    assert_fresh(model)


@pytest.mark.parametrize('name', [name for name in WRITES if name not in ('optimizer step', 'fuse_conv_bn')])
def test_a_write_changes_the_answer(name):
    """Otherwise test_never_stale would prove nothing."""
    model = make().eval()
    with torch.no_grad():
        before = [feature.clone() for feature in model(image())]
        WRITES[name](model)
        assert not all(torch.equal(a, b) for a, b in zip(before, model(image()), strict=True))


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 1e-2)])
def test_dtypes_there_and_back(dtype, tolerance):
    model = make().eval()
    assert_fresh(model)
    assert_fresh(model.to(dtype), tolerance)
    assert_fresh(model.double())


def test_folding_in_half_precision_is_done_in_float32():
    block = randomize(MobileOneBlock(64, 64, 3, num_conv_branches=4)).half().eval()
    with torch.no_grad():
        folded = block.current_kernel()
        exact = copy.deepcopy(block).double().current_kernel()
    for got, tensor in zip(folded, exact, strict=True):
        assert got.dtype == torch.float16
        # The error is that of one rounding at the end; folding in half precision would have a
        # larger one.
        torch.testing.assert_close(got.double(), tensor, rtol=1.001 * 2 ** -11, atol=1e-6)


def test_amp():
    model = make().float().eval()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        output = model(image(torch.float32))
    with torch.no_grad():
        expected = reference_maps(model, image(torch.float32))
    for got, feature in zip(output, expected, strict=True):
        assert (got.float() - feature).abs().max() < 0.03 * feature.abs().max()


def test_copies_are_independent():
    model = make().eval()
    assert_fresh(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        WRITES['EMA swap'](twin)
        assert_fresh(twin)
        assert_fresh(model)


def test_a_deleted_model_goes_at_once():
    model = make().eval()
    assert_fresh(model)
    weight = weakref.ref(model.stage0.conv_branches[0].conv.weight)
    gc.disable()
    try:
        del model
        assert weight() is None
    finally:
        gc.enable()


def test_on_the_meta_device():
    with torch.device('meta'), torch.no_grad():
        model = MobileOne(ARCH).eval()
        for _ in range(2):
            assert model(torch.empty(1, 3, 64, 64))[0].shape == (1, 2048, 2, 2)


@pytest.mark.parametrize('after_eval', [False, True])
def test_sync_bn_and_back(after_eval):
    model = make()
    model = convert_sync_batchnorm(model)
    model = (revert_sync_batchnorm(model.eval()) if after_eval else revert_sync_batchnorm(model).eval())
    assert_fresh(model)
    WRITES['EMA swap'](model)
    assert_fresh(model)
    model.load_state_dict(other_state(model), assign=True)
    assert_fresh(model)


def test_revert_sync_batchnorm_of_a_warm_model_then_a_write():
    model = convert_sync_batchnorm(make()).eval()
    assert_fresh(model)
    model = revert_sync_batchnorm(model)
    model.load_state_dict(other_state(model), assign=True)
    assert_fresh(model)


def test_norms_put_in_train_mode_inside_an_eval_model():
    """Test-time adaptation: batch statistics are not constant, so there is nothing to fold."""
    model = make().eval()
    assert_fresh(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    expected = copy.deepcopy(model).train()(image())
    with torch.no_grad():
        torch.testing.assert_close(model(image()), expected)
    assert_fresh(model.eval())


def test_state_dict_and_parameters_are_the_same_in_both_modes():
    model = make()
    parameters, state = list(model.parameters()), {k: v.clone() for k, v in model.state_dict().items()}
    assert model.eval() is model
    model(image())
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert model.train() is model
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert not any('fused' in name or 'reparam' in name
                   for name, _ in [*model.named_buffers(), *model.named_parameters()])


def test_validation_leaves_training_bit_identical():
    def train(validates):
        model = make()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for i in range(4):
            optimizer.zero_grad()
            model(image() + i)[-1].square().mean().backward()
            optimizer.step()
            if validates:
                with torch.no_grad():
                    model.eval()(image())
                model.train()
        return model.state_dict()

    plain, validating = train(False), train(True)
    assert all(torch.equal(value, validating[key]) for key, value in plain.items())


def test_inference_mode_then_gradients():
    model = make(frozen_stages=4).eval()
    with torch.inference_mode():
        model(image())
    x = image().requires_grad_()
    model(x)[-1].sum().backward()
    assert x.grad.abs().sum() > 0


def test_one_model_in_several_threads():
    model = make().eval()
    with torch.no_grad():
        expected = model(image())[-1]
    failures = []

    def work():
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(model(image())[-1], expected):
                    failures.append('differs')

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_other_models_inside_a_forward_keep_their_own_kernels():
    """Kernels that one backbone verified are not taken as verified in another."""
    teacher, student = make(seed=1).eval(), make(seed=2).eval()
    with torch.no_grad():
        expected = teacher(image())[-1]
        outputs = []
        student.stage1.register_forward_hook(lambda *_: outputs.append(teacher(image())[-1]))
        assert_fresh(student)
    assert outputs and all(torch.equal(output, expected) for output in outputs)


# --- graphs

NUM_BLOCKS = 1 + 2 * sum(ARCH['num_blocks'])


def count_convs_without_se(names):
    return len(names) - 2 * 2 * sum(ARCH['num_se_blocks'])


@pytest.mark.parametrize('warm', [True, False])
@pytest.mark.parametrize('write', [None, 'EMA swap'])
def test_jit_trace(warm, write):
    model = make().eval()
    if warm:
        assert_fresh(model)
    if write:
        WRITES[write](model)
    traced = torch.jit.trace(model, image())
    kinds = [node.kind() for node in traced.inlined_graph.nodes()]
    assert count_convs_without_se([k for k in kinds if 'conv' in k]) == NUM_BLOCKS
    assert not any('norm' in kind for kind in kinds)
    assert sum('aten::pad' in kind or 'aten::rsqrt' in kind for kind in kinds) == 0  # no folding in the graph
    torch.testing.assert_close(traced(image()), model(image()))


@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('write', [None, 'EMA swap', 'load_state_dict(assign=True)'])
def test_torch_export(strict, write):
    model = make().eval()
    if write:
        WRITES[write](model)
    exported = torch.export.export(model, (image(), ), strict=strict)
    calls = [str(node.target) for node in exported.graph.nodes if node.op == 'call_function']
    assert count_convs_without_se([c for c in calls if 'conv' in c]) == NUM_BLOCKS
    assert not any('norm' in call for call in calls)
    if not strict and write != 'EMA swap':  # the folding is not in the graph, except after a write through .data
        assert not any('rsqrt' in call or 'pad' in call for call in calls)
    torch.testing.assert_close(exported.module()(image()), model(image()), rtol=1e-9, atol=1e-9)
    assert_fresh(model)


@pytest.mark.parametrize('dynamo', [False, True])
def test_onnx(dynamo):
    onnx = pytest.importorskip('onnx')
    ort = pytest.importorskip('onnxruntime')
    if dynamo:
        pytest.importorskip('onnxscript')
    model = make().float().eval()
    x = image(torch.float32)
    file = io.BytesIO()
    if dynamo:
        torch.onnx.export(model, (x, ), dynamo=True).save(file)
    else:
        torch.onnx.export(model, (x, ), file, dynamo=False)
    kinds = [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]
    assert count_convs_without_se([k for k in kinds if k == 'Conv']) == NUM_BLOCKS
    assert 'BatchNormalization' not in kinds
    session = ort.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    for got, expected in zip(session.run(None, {session.get_inputs()[0].name: x.numpy()}), model(x), strict=True):
        torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_torch_compile_sees_one_convolution_a_block():
    calls = []

    def backend(graph, inputs):
        calls.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    with torch.no_grad():
        torch.compile(make().eval(), backend=backend, fullgraph=True)(image())
    assert count_convs_without_se([call for call in calls if 'conv2d' in call]) == NUM_BLOCKS
    assert not any('batch_norm' in call for call in calls)


@pytest.mark.parametrize('grad', [False, True])
def test_torch_compile_follows_the_weights(grad):
    model = make().eval()
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.set_grad_enabled(grad):
        for write in ('data.mul_', 'EMA swap', 'optimizer step'):
            torch.testing.assert_close(compiled(image()), model(image()), rtol=1e-9, atol=1e-9)
            with torch.enable_grad():
                WRITES[write](model)
        torch.testing.assert_close(compiled(image()), model(image()), rtol=1e-9, atol=1e-9)


# --- deploy

def test_reparameterize_model_copies_by_default():
    model = nn.ModuleDict(dict(backbone=make(), other=nn.Conv2d(3, 3, 1))).eval()
    deployed = reparameterize_model(model)
    assert deployed.backbone.deploy and not model.backbone.deploy
    assert 'stage0.reparam_conv.weight' in deployed.backbone.state_dict()
    assert_fresh(model.backbone)
    torch.testing.assert_close(deployed.backbone(image()), model.backbone(image()))
    assert reparameterize_model(model, inplace=True) is model
    torch.testing.assert_close(model.backbone(image()), deployed.backbone(image()))
    assert isinstance(reparameterize_model(nn.Conv2d(3, 3, 1)), nn.Conv2d)


def test_switch_to_deploy_is_idempotent_and_survives_train():
    model = make().eval()
    expected = model(image())
    model.switch_to_deploy()
    model.switch_to_deploy()
    for output in (model(image()), model.train()(image())):
        torch.testing.assert_close(output, expected)
    again = MobileOne(ARCH, out_indices=(0, 1, 2, 3), deploy=True).double()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(image()), expected)


def test_deploy_block_fuses_on_load():
    block = randomize(MobileOneBlock(8, 8, 3, num_conv_branches=2, with_se=False)).double().eval()
    deployed = MobileOneBlock(8, 8, 3, num_conv_branches=2, deploy=True).double()
    deployed.load_state_dict(block.state_dict())
    x = torch.randn(1, 8, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(deployed(x), reference(block, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize('make_model', [lambda deploy: MobileOne('s0', deploy=deploy),
                                        lambda deploy: MobileOneBlock(8, 8, 3, deploy=deploy)])
def test_deploy_weights_do_not_load_into_the_train_form(make_model):
    with pytest.raises(ValueError, match=r'(?s)deploy.*train form.*deploy=True'):
        make_model(False).load_state_dict(make_model(True).state_dict())


def test_memory_that_is_changed_in_place():
    """Shared or resized, a storage has other memory, and the tensors are the same as before."""
    model = make().eval()
    with torch.no_grad():
        model(image())
        parameters = [*model.parameters()]
        for parameter in parameters:
            parameter.share_memory_()
        assert_fresh(model)
        parameters[0].mul_(2)
        assert_fresh(model)
    model = make().eval()
    assert_fresh(model)
    parameter = model.stage1[0].conv_branches[0].conv.weight
    storage, content = parameter.untyped_storage(), parameter.detach().clone()
    size = storage.nbytes()
    storage.resize_(0)  # as FSDP does between forward passes
    storage.resize_(size)
    parameter.data.copy_(content * 3)
    assert_fresh(model)


def test_one_weight_in_a_transform():
    """Forward-mode gradients for one weight in the middle; the others are ordinary tensors."""
    model = make().eval().requires_grad_(False)
    name = 'stage2.0.conv_branches.0.bn.weight'
    weight = dict(model.named_parameters())[name]
    x = image()

    def last_map(value):
        return torch.func.functional_call(model, {name: value}, (x, ))[-1]

    with torch.no_grad():
        _, slope = torch.func.jvp(last_map, (weight, ), (torch.ones_like(weight), ))
        expected = (last_map(weight + 1e-6) - last_map(weight - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert_fresh(model)
