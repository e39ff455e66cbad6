"""Reader of flat arrays of consecutive steps, as D4RL has them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_pwm.data.cleaning import as_numbers, as_rows
from sb3_pwm.data.types import Episode, SourceEpisode


def array_episodes(
    observations: Any,
    actions: Any,
    rewards: Any,
    terminations: Any,
    truncations: Any,
    next_observations: Any = None,
    task: str = "task",
) -> Iterator[SourceEpisode]:
    """
    Read the episodes of flat arrays of consecutive steps.

    :param observations: Observations, see :meth:`~sb3_pwm.data.dataset.OfflineDataset.from_arrays`.
    :param actions: Actions.
    :param rewards: Rewards.
    :param terminations: Whether each step terminated its episode.
    :param truncations: Whether each step truncated its episode.
    :param next_observations: Observations after the steps; None if they are not known.
    :param task: Name of the task.
    :return: Iterator of the episodes.
    :raises ValueError: If the arrays do not fit each other, or hold no episode.
    """
    arrays = {
        "observations": as_rows("observations", observations),
        "actions": as_rows("actions", actions),
        "rewards": as_numbers("rewards", rewards),
        "terminations": _flags("terminations", terminations),
        "truncations": _flags("truncations", truncations),
    }
    if next_observations is not None:
        arrays["next_observations"] = as_rows("next_observations", next_observations)
    _check(arrays)
    following = arrays.get("next_observations")
    all_bounds = _bounds(arrays)
    # Without the observation after its last step, an episode is one step shorter.
    shortest = 1 if following is not None else 2
    bounds = [(first, end) for first, end in all_bounds if end - first >= shortest]
    if not bounds:
        raise ValueError(
            "The arrays hold no episode: an episode needs one step with next_observations, or two steps without them."
        )
    if len(bounds) < len(all_bounds):
        warnings.warn(
            f"{len(all_bounds) - len(bounds)} of {len(all_bounds)} episodes of {task} have a single step, and are left "
            "out, because the observation after it is not in observations: give next_observations."
        )
    for first, end in bounds:
        after = end if following is not None else end - 1
        final = arrays["observations"][after : after + 1] if following is None else following[after - 1 : after]
        episode = Episode(
            np.concatenate([arrays["observations"][first:after], final]),
            arrays["actions"][first:after],
            arrays["rewards"][first:after],
            bool(arrays["terminations"][end - 1]),
        )
        yield SourceEpisode(task, episode, f"the episode of steps {first} to {end - 1}")


def _flags(name: str, values: Any) -> NDArray[np.float32]:
    """:raises ValueError: If the values are not one truth value per step."""
    array = as_numbers(name, values)
    if not np.isin(array, (0.0, 1.0)).all():
        raise ValueError(f"{name} must hold True and False, or 1 and 0.")
    return array


def _check(arrays: dict[str, NDArray[np.float32]]) -> None:
    """:raises ValueError: If the arrays do not fit each other."""
    observations, following = arrays["observations"], arrays.get("next_observations")
    for name, array in arrays.items():
        if len(array) != len(observations):
            raise ValueError(f"{name} has {len(array)} rows, observations has {len(observations)}: give one per step.")
    if following is None:
        if arrays["terminations"].any():
            raise ValueError(
                f"Step {int(np.argmax(arrays['terminations']))} terminates an episode, and the observation after it is "
                "not in observations: give next_observations."
            )
        return
    if following.shape != observations.shape:
        raise ValueError(f"next_observations has the shape {following.shape}, observations has {observations.shape}.")
    ended = (arrays["terminations"] + arrays["truncations"])[:-1] > 0.0
    broken = ~np.isclose(following[:-1], observations[1:], rtol=1e-5, atol=1e-6, equal_nan=True).all(axis=1) & ~ended
    if broken.any():
        step = int(np.argmax(broken))
        raise ValueError(
            f"The next observation of step {step} is not the observation of step {step + 1}, and step {step} ends no "
            "episode: give the steps in their order, and mark the last step of each episode in truncations."
        )


def _bounds(arrays: dict[str, NDArray[np.float32]]) -> list[tuple[int, int]]:
    """:return: First step of each episode, and the step after its last one."""
    ends = (np.flatnonzero(arrays["terminations"] + arrays["truncations"]) + 1).tolist()
    n_steps = len(arrays["observations"])
    if not ends or ends[-1] != n_steps:
        ends.append(n_steps)  # the recording stopped within an episode
    return list(pairwise([0, *ends]))
