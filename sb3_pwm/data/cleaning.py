"""Cleaning of episodes: what is converted, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_pwm.common.checks import first_not_finite
from sb3_pwm.data.types import Episode

ROUNDING = 1e-4
"""Part of the half range of an action by which rounding may move it beyond its bounds"""


def clean_episode(episode: Episode, where: str) -> Episode:
    """
    Convert the values of an episode to float32 arrays, and check them.

    Lists, float64 and integers are converted, one-dimensional observations and actions get their second dimension, and
    an action that rounding has moved beyond [-1, 1] is clipped.

    :param episode: The episode.
    :param where: File and number of the episode, for messages.
    :return: The episode in float32.
    :raises ValueError: If the episode is empty, its arrays do not fit each other, a value is not finite, or an action
        is not in [-1, 1].
    """
    rewards = as_numbers(f"The rewards of {where}", episode.rewards)
    n_steps = len(rewards)
    if n_steps == 0:
        raise ValueError(f"{where} is empty.")
    observations = as_rows(f"The observations of {where}", episode.observations)
    actions = as_rows(f"The actions of {where}", episode.actions)
    if len(observations) != n_steps + 1 or len(actions) != n_steps:
        raise ValueError(
            f"{where} has {len(observations)} observations, {len(actions)} actions and {n_steps} rewards; there must "
            "be one observation more than actions and rewards."
        )
    for name, values in (("observations", observations), ("actions", actions), ("rewards", rewards)):
        step = first_not_finite(values)
        if step is not None:
            raise ValueError(f"The {name} of {where} are NaN or infinite at step {step}.")
    largest = np.abs(actions).max(axis=1)
    if largest.max() > 1.0 + ROUNDING:
        step = int(np.argmax(largest))
        raise ValueError(
            f"The actions of {where} must lie in [-1, 1], got {largest[step]:g} at step {step}: scale them by the "
            "bounds of the action space."
        )
    if np.ndim(episode.terminated) != 0:
        raise ValueError(
            f"terminated of {where} must be True or False, got an array of {np.shape(episode.terminated)}: say whether "
            "the last step terminated the episode, and give the steps after a termination as another episode."
        )
    return Episode(observations, np.clip(actions, -1.0, 1.0), rewards, bool(episode.terminated))


def check_continuous(space: spaces.Space[Any], where: str) -> None:
    """
    Check that actions of a space can be scaled to [-1, 1].

    :param space: Action space of the data.
    :param where: File or name of the data, for messages.
    :raises ValueError: If the space is not a ``Box`` with finite bounds.
    """
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"{where} has actions of {space}, but PWM learns continuous actions: its data needs a Box as action space."
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(
            f"{where} has actions without bounds, {space}, so that they cannot be scaled to [-1, 1]: scale them "
            "yourself, and give them to OfflineDataset.from_arrays()."
        )


def as_rows(subject: str, values: Any) -> NDArray[np.float32]:
    """
    Convert observations or actions to an array with one row per step.

    :param subject: Noun phrase for the values, for messages: ``"The actions of episode 3"``.
    :param values: Values ``(steps, size)``, or ``(steps,)`` if the size is 1.
    :return: Array ``(steps, size)``.
    :raises ValueError: If the values are no numbers, or have another number of dimensions.
    """
    array = _as_array(subject, values)
    if array.ndim == 1:
        return array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"{subject} must have the shape (steps, size), got {array.shape}: make each step one row.")
    return array


def as_numbers(subject: str, values: Any) -> NDArray[np.float32]:
    """
    Convert rewards or flags to an array with one number per step.

    :param subject: Noun phrase for the values, for messages: ``"The rewards of episode 3"``.
    :param values: Values ``(steps,)`` or ``(steps, 1)``.
    :return: Array ``(steps,)``.
    :raises ValueError: If the values are no numbers, or have another shape.
    """
    array = _as_array(subject, values)
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{subject} must have the shape (steps,), got {array.shape}: give one number per step.")
    return array


def _as_array(subject: str, values: Any) -> NDArray[np.float32]:
    """:raises ValueError: If the values are no numbers, or have rows of different lengths."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{subject} differ in their shapes: give each step the same number of values.") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{subject} must be numbers, got values of the type {array.dtype}.")
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused as such
        return array.astype(np.float32, copy=False)
