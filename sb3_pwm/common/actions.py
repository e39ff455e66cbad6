"""Scaling of actions between the bounds of an action space and [-1, 1]."""

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


def scale_actions(space: spaces.Box, actions: Any) -> NDArray[np.float32]:
    """
    Scale actions from the bounds of an action space to [-1, 1].

    :param space: Action space with finite bounds, of any dtype.
    :param actions: Actions ``(..., *shape)`` in the bounds.
    :return: Scaled actions ``(..., *shape)``. A dimension whose bounds are equal is 0.
    """
    # In double precision: differences of the bounds overflow in small integers and in half precision.
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    varies = high > low
    scaled = 2.0 * (np.asarray(actions, np.float64) - low) / np.where(varies, high - low, 1.0) - 1.0
    return np.where(varies, scaled, 0.0).astype(np.float32)


def unscale_actions(space: spaces.Box, actions: Any) -> NDArray[Any]:
    """
    Scale actions from [-1, 1] to the bounds of an action space.

    :param space: Action space with finite bounds, of any dtype.
    :param actions: Scaled actions ``(..., *shape)``.
    :return: Actions ``(..., *shape)`` in the bounds, in the dtype of the space. Integers are rounded to the nearest.
    """
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    unscaled = low + 0.5 * (np.asarray(actions, np.float64) + 1.0) * (high - low)
    if not np.issubdtype(space.dtype, np.floating):
        unscaled = np.rint(unscaled)
    return np.clip(unscaled, low, high).astype(space.dtype)
