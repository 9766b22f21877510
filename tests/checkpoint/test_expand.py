"""Fused weights in branches: the same outputs in eval, norms calibrated on data, further training."""
import pytest
import torch

from mobileone_mm import ARCHS, MobileOne, calibrate_norms, expand_state_dict, reparameterize_model
from mobileone_mm.engine.hooks import CalibrateNormsHook
from mobileone_mm.utils.errors import CheckpointError
from tests.support.reference import randomize, reference_maps

SMALL = ARCHS['s0'] | dict(num_blocks=(1, 2, 2, 1), num_se_blocks=(0, 0, 1, 1))


def images(n=2):
    torch.manual_seed(1)
    return torch.randn(n, 3, 64, 64, dtype=torch.float64)


def fused_weights():
    """A deploy form in which all maps have magnitudes near 1, as in a trained network."""
    torch.manual_seed(0)
    model = MobileOne(SMALL).double()
    model.train()(images(8))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    model(images(8))
    return reparameterize_model(model.eval())


@pytest.fixture(scope='module')
def deployed():
    return fused_weights()


def expanded_from(deployed):
    torch.manual_seed(5)
    model = MobileOne(SMALL).double()
    model.load_state_dict(expand_state_dict(deployed.state_dict(), model))
    return model


def test_the_same_function(deployed):
    model = expanded_from(deployed).eval()
    with torch.no_grad():
        expected = deployed(images())[0]
        for got in (model(images())[0], reference_maps(model, images())[-1],
                    reparameterize_model(model)(images())[0]):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * expected.abs().max().item())
    assert model.state_dict().keys() == MobileOne(SMALL).state_dict().keys()


def test_calibration_changes_nothing_in_eval_and_makes_train_agree(deployed):
    model = expanded_from(deployed)
    for norms in ('expanded', 'random'):  # any norms, not only those just expanded
        if norms == 'random':
            randomize(model)
        with torch.no_grad():
            expected = model.eval()(images(8))[0]
            model.train()
            calibrate_norms(model, images(8).split(2))
            assert model.training and all(module.training for module in model.modules())
            torch.testing.assert_close(model.eval()(images(8))[0], expected, rtol=0,
                                       atol=1e-10 * expected.abs().max().item())
            # On the images of the calibration, batch statistics are the calibrated ones.
            torch.testing.assert_close(model.train()(images(8))[0], expected, rtol=0,
                                       atol=1e-8 * expected.abs().max().item())
    uncalibrated = expanded_from(deployed)
    with torch.no_grad():
        expected = uncalibrated.eval()(images(8))[0]
        assert (uncalibrated.train()(images(8))[0] - expected).abs().max() > 0.1 * expected.abs().max()


def test_all_branches_learn(deployed):
    model = calibrate_norms(expanded_from(deployed), [images(8)]).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for _ in range(2):  # the first step moves the norms' weights off 0, the second the convolutions behind them
        optimizer.zero_grad()
        (model(images(8))[0] - 1).square().mean().backward()
        optimizer.step()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not still


def test_errors(deployed):
    model = MobileOne(SMALL)
    with pytest.raises(CheckpointError, match='weights of the train form, which have all branches. Leave expand'):
        expand_state_dict(model.state_dict(), model)
    with pytest.raises(ValueError, match='Got a model in the deploy form'):
        expand_state_dict(deployed.state_dict(), deployed)
    with pytest.raises(CheckpointError, match="'s1' weights, but the config says arch='s0'"):
        expand_state_dict(MobileOne('s1', deploy=True).state_dict(), MobileOne('s0'))
    with pytest.raises(ValueError, match='Expanding needs norms with weight and bias'):
        expand_state_dict(deployed.state_dict(), MobileOne(SMALL, norm_cfg=dict(type='BN', affine=False)))
    with pytest.raises(ValueError, match='at least one batch'):
        calibrate_norms(model, [])
    with pytest.raises(ValueError, match='num_batches must be an int of at least 1, got 0'):
        CalibrateNormsHook(0)


def test_without_the_opt_in_it_is_an_error(deployed):
    with pytest.raises(CheckpointError, match=r'(?s)Got fused.*expand=True.*build it with deploy=True'):
        MobileOne(SMALL).load_state_dict(deployed.state_dict())
