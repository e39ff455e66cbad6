"""Scaling of actions: the right value for every dtype and for bounds that are equal."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_pwm.common.actions import scale_actions, unscale_actions


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.float16, np.float32, np.float64])
def test_actions_of_every_dtype_are_scaled(dtype):
    space = spaces.Box(-100, 100, (2,), dtype)
    actions = np.array([[-100, 60], [0, 100]], dtype)
    scaled = scale_actions(space, actions)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, [[-1.0, 0.6], [0.0, 1.0]], rtol=1e-6)
    unscaled = unscale_actions(space, scaled)
    assert unscaled.dtype == dtype
    np.testing.assert_allclose(unscaled, actions, rtol=1e-6)


def test_unsigned_and_boolean_actions():
    space = spaces.Box(0, 255, (3,), np.uint8)
    np.testing.assert_allclose(scale_actions(space, np.array([0, 51, 255], np.uint8)), [-1.0, -0.6, 1.0], rtol=1e-6)
    assert unscale_actions(space, [-1.0, -0.6, 1.0]).tolist() == [0, 51, 255]
    space = spaces.Box(0, 1, (2,), bool)
    assert scale_actions(space, np.array([False, True])).tolist() == [-1.0, 1.0]
    assert unscale_actions(space, [-0.1, 0.1]).tolist() == [False, True]


def test_integer_actions_are_rounded_and_stay_in_their_bounds():
    space = spaces.Box(-5, 5, (4,), np.int32)
    assert unscale_actions(space, [-0.75, 0.59, 0.61, 1.1]).tolist() == [-4, 3, 3, 5]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_dimension_with_equal_bounds_is_zero(dtype):
    space = spaces.Box(np.array([-2, 3], dtype), np.array([2, 3], dtype), dtype=dtype)
    assert scale_actions(space, np.array([1, 3], dtype)).tolist() == [0.5, 0.0]
    assert unscale_actions(space, [[0.5, 0.0], [0.5, 0.9]]).tolist() == [[1, 3], [1, 3]]
