"""symlog and two-hot vectors compared with numbers computed by hand."""

import math

import pytest
import torch as th

from sb3_pwm.world_model.two_hot import symexp, symlog, two_hot, two_hot_cross_entropy, two_hot_decode

BINS = dict(low=-10.0, high=10.0)


def test_symlog_by_hand():
    x = th.tensor([0.0, math.e - 1.0, 1.0 - math.e, 999.0])
    th.testing.assert_close(symlog(x), th.tensor([0.0, 1.0, -1.0, math.log(1000.0)]))


def test_symexp_inverts_symlog():
    x = th.linspace(-1000, 1000, 101, dtype=th.float64)
    th.testing.assert_close(symexp(symlog(x)), x)


def test_two_hot_on_a_bin():
    encoded = two_hot(th.tensor([0.0]), 101, **BINS)
    assert encoded[0, 50] == 1.0
    assert encoded.sum() == 1.0


def test_two_hot_between_bins():
    # Bins are 0.2 apart: symlog 0.25 lies a quarter of the way from bin 51 (0.2) to bin 52 (0.4)
    encoded = two_hot(symexp(th.tensor([0.25])), 101, **BINS)[0]
    th.testing.assert_close(encoded[51:53], th.tensor([0.75, 0.25]), atol=1e-5, rtol=0)
    assert encoded.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(("value", "bin_index"), [(1e9, 100), (-1e9, 0)])
def test_two_hot_beyond_the_edge_is_the_edge(value, bin_index):
    encoded = two_hot(th.tensor([value]), 101, **BINS)[0]
    assert encoded[bin_index] == 1.0
    assert encoded.sum() == 1.0


def test_decode_by_hand():
    logits = th.full((2, 101), -1e9)
    logits[0, 55] = 0.0  # all mass on center 1.0: e - 1
    logits[1, 55] = logits[1, 45] = 0.0  # half on 1.0, half on -1.0: zero
    decoded = two_hot_decode(logits, **BINS)
    th.testing.assert_close(decoded, th.tensor([math.e - 1.0, 0.0]), atol=1e-5, rtol=1e-5)


def test_decode_inverts_encode():
    x = th.tensor([-300.0, -1.5, 0.0, 0.3, 2.0, 1500.0])
    logits = th.log(two_hot(x, 101, **BINS) + 1e-30)
    th.testing.assert_close(two_hot_decode(logits, **BINS), x, rtol=1e-3, atol=1e-3)


def test_cross_entropy_by_hand():
    # The cross-entropy of a uniform prediction over 101 bins is log 101 for every target.
    loss = two_hot_cross_entropy(th.zeros(3, 101), th.tensor([0.0, 1.3, -70.0]), **BINS)
    th.testing.assert_close(loss, th.full((3,), math.log(101.0)))
    # Five bins -2..2, target symlog 0.5 (half on bin 2, half on bin 3), logits (0, 0, 1, 2, 0)
    logits = th.tensor([[0.0, 0.0, 1.0, 2.0, 0.0]])
    normalizer = math.log(3.0 + math.e + math.e**2)
    loss = two_hot_cross_entropy(logits, symexp(th.tensor([0.5])), low=-2.0, high=2.0)
    assert loss.item() == pytest.approx(normalizer - 1.5, rel=1e-5)


def test_reward_scale_is_not_symlog():
    """The decoded reward has the environment's units. The published code of PWM leaves it in symlog units."""
    logits = th.log(two_hot(th.tensor([50.0]), 101, **BINS) + 1e-30)
    assert two_hot_decode(logits, **BINS).item() == pytest.approx(50.0, rel=1e-3)
