"""Flat observations, in the order of ``gymnasium.wrappers.FlattenObservation``."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import is_image_space

_FLAT = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_can_be_flattened(space: spaces.Space[Any], where: str) -> None:
    """
    Check that observations of a space can be made rows of numbers.

    :param space: Observation space.
    :param where: File or name of the data, for messages.
    :raises ValueError: If the space has images, or entries that are no numbers.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for entry in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            check_can_be_flattened(entry, where)
    elif is_image_space(space, check_channels=False, normalized_image=False):
        raise ValueError(
            f"{where} has images of {space.shape}, and data sets hold rows of numbers: learn from images online with "
            "CnnPolicy, or record the data with a wrapper that leaves the images out, such as "
            "gymnasium.wrappers.FilterObservation."
        )
    elif not isinstance(space, _FLAT):
        raise ValueError(
            f"{where} has observations of {space}, which are no numbers: record the data with a wrapper that leaves "
            "them out, such as gymnasium.wrappers.FilterObservation."
        )


def flatten_observations(space: spaces.Space[Any], observations: Any, where: str) -> NDArray[np.floating]:
    """
    Flatten the observations of consecutive steps, as ``gymnasium.spaces.flatten`` does with each.

    :param space: Observation space that has passed :func:`check_can_be_flattened`.
    :param observations: Array ``(steps, *)``; of a ``Dict`` or ``Tuple``, a dictionary or tuple of such arrays.
    :param where: File or name of the data, for messages.
    :return: Array ``(steps, size)``. Discrete values are one-hot.
    :raises ValueError: If a discrete value is not in its space.
    """
    if isinstance(space, spaces.Dict):
        return np.concatenate(
            [flatten_observations(entry, observations[key], where) for key, entry in space.spaces.items()], axis=1
        )
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, observations, strict=True)
        return np.concatenate([flatten_observations(entry, part, where) for entry, part in parts], axis=1)
    rows: NDArray[Any] = np.asarray(observations)
    rows = rows.reshape(len(rows), -1)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        sizes = np.reshape(space.n if isinstance(space, spaces.Discrete) else space.nvec, -1)
        values = rows - np.reshape(space.start, -1)
        if not ((values >= 0) & (values < sizes)).all():
            raise ValueError(f"{where} has observations that are not in its space {space}.")
        return np.concatenate([np.eye(n)[values[:, i].astype(np.int64)] for i, n in enumerate(sizes)], axis=1)
    return rows
