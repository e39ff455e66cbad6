"""Observations that are one array, or a dictionary of arrays: everywhere the same operation on each of them."""

from collections.abc import Callable
from typing import Any


def map_observations(function: Callable[..., Any], *observations: Any) -> Any:
    """
    :param function: Of as many arrays, tensors or spaces as there are observations.
    :param observations: All of them single ones, or all dictionaries with the keys of the first.
    :return: What the function gives, in a dictionary if the observations are.
    """
    if isinstance(observations[0], dict):
        return {key: function(*(observation[key] for observation in observations)) for key in observations[0]}
    return function(*observations)
