"""Network blocks compared with those of torch."""

import pytest
import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_pwm.common.layers import LONG_BATCH, EnsembleMLP, Mish, mlp


@pytest.mark.parametrize("dtype", [th.float32, th.bfloat16, th.float16, th.float64])
def test_mish_and_its_gradient_match_torch(dtype):
    values = th.cat([th.linspace(-100, 100, 4001), th.tensor([0.0, 1e-8, -1e-8, 1e4, -1e4])])
    x = values.to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    expected = F.mish(exact)
    (expected_gradient,) = th.autograd.grad(expected.sum(), exact)
    actual = Mish()(x)
    (gradient,) = th.autograd.grad(actual.sum(), x)
    assert actual.dtype == dtype
    tolerance = {th.float32: 2e-6, th.bfloat16: 2e-2, th.float16: 2e-3, th.float64: 1e-12}[dtype]
    th.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=tolerance)
    th.testing.assert_close(gradient.double(), expected_gradient, atol=tolerance, rtol=tolerance)


def test_networks_with_mish_have_the_fast_module():
    for network in (mlp(3, [4], 2, nn.Mish), EnsembleMLP(2, 3, [4], nn.Mish)):
        kinds = [type(module) for module in network.modules() if isinstance(module, nn.Mish)]
        assert kinds == [Mish]


@pytest.mark.parametrize("shape", [(4 * LONG_BATCH + 7,), (3, 2 * LONG_BATCH)])
def test_many_rows_pass_in_blocks_with_the_same_result(shape):
    network = mlp(3, [4], 2, nn.Mish)
    x = th.randn(*shape, 3, requires_grad=True)
    blocked, whole = network(x), nn.Sequential.forward(network, x)
    assert blocked.shape == (*shape, 2)
    th.testing.assert_close(blocked, whole)
    parameters = [x, *network.parameters()]
    weights = th.randn_like(whole)
    expected = th.autograd.grad((weights * whole).sum(), parameters)
    for actual, gradient in zip(th.autograd.grad((weights * blocked).sum(), parameters), expected, strict=True):
        th.testing.assert_close(actual, gradient, rtol=1e-4, atol=1e-3)
