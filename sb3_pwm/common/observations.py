"""Operations on observations that are an array or a dictionary of arrays."""

from collections.abc import Callable
from typing import Any


def map_observations(function: Callable[..., Any], *observations: Any) -> Any:
    """
    Apply a function to observations, or to each entry of observations that are dictionaries.

    :param function: Function that takes one array, tensor or space of each observation.
    :param observations: Observations. Either all of them are dictionaries with the same keys, or none is.
    :return: Result of the function, or a dictionary of its results by key.
    """
    if isinstance(observations[0], dict):
        return {key: function(*(observation[key] for observation in observations)) for key in observations[0]}
    return function(*observations)
