"""The forms in which experience travels through the package: episodes, a task's episodes, batches of sequences."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray


class SequenceBatch(NamedTuple):
    """
    B sequences of H consecutive steps, time first.

    ``observations[t + 1]`` is the true observation that step t led to, also at an episode's end. Steps after the
    episode's end have mask zero; what they hold is arbitrary but finite.
    """

    observations: th.Tensor
    """``(H + 1, B, *)``; a dictionary of such tensors where the environment's observations are one"""
    actions: th.Tensor
    """``(H, B, A)``, scaled to [-1, 1]"""
    rewards: th.Tensor
    """``(H, B)``, in the environment's units"""
    terminations: th.Tensor
    """``(H, B)``, one where the step ended the episode for good; a time limit's truncation is not a termination"""
    mask: th.Tensor
    """``(H, B)``, one for the steps of the sequence's first episode"""
    task: th.Tensor | None = None
    """``(B,)`` task indices, or None in single-task learning"""


class Episode(NamedTuple):
    """One episode of T steps, in the environment's own dimensions."""

    observations: NDArray[np.float32]
    """``(T + 1, O)``, the last one being where the last step led to"""
    actions: NDArray[np.float32]
    """``(T, A)`` in [-1, 1]"""
    rewards: NDArray[np.float32]
    """``(T,)``"""
    terminated: bool
    """Whether the last step ended it for good; otherwise it was cut off"""


class SourceEpisode(NamedTuple):
    """An episode on its way into a data set."""

    task: str
    episode: Episode
    where: str
    """File and number of the episode, for messages"""


@dataclasses.dataclass(frozen=True)
class TaskData:
    """
    The episodes of a task, one after the other.

    An episode of T steps has T + 1 rows: a step's row holds its observation, action and reward, the last row holds the
    last observation.

    :param name: The task.
    :param observations: ``(rows, O)``.
    :param actions: ``(rows, A)``; zero in last rows.
    :param rewards: ``(rows,)``; zero in last rows.
    :param first: First row of each episode, ``(E,)``.
    :param lengths: Steps of each episode, ``(E,)``.
    :param terminated: Whether each episode ended for good, ``(E,)``.
    """

    name: str
    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    first: NDArray[np.int64]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]

    def subset(self, episodes: NDArray[np.int64]) -> TaskData:
        """:param episodes: Numbers of episodes. :return: Those only, of the same arrays."""
        return dataclasses.replace(
            self, first=self.first[episodes], lengths=self.lengths[episodes], terminated=self.terminated[episodes]
        )

    @property
    def returns(self) -> NDArray[np.float32]:
        """Sum of the rewards of each episode, ``(E,)``."""
        return np.array([self.episode(number).rewards.sum() for number in range(len(self.lengths))])

    def episode(self, number: int) -> Episode:
        """:param number: Of the episode. :return: It."""
        first, length = int(self.first[number]), int(self.lengths[number])
        steps = slice(first, first + length)
        observations = np.asarray(self.observations[first : first + length + 1])
        rows = np.asarray(self.actions[steps]), np.asarray(self.rewards[steps])
        return Episode(observations, *rows, bool(self.terminated[number]))


def check_episode(episode: Episode, where: str) -> None:
    """
    :param episode: An episode.
    :param where: Where it comes from.
    :raises ValueError: If it is empty, its arrays do not fit each other, or a value is not finite; the message says
        where.
    """
    n_steps = len(episode.rewards)
    if n_steps == 0:
        raise ValueError(f"{where} is empty.")
    if len(episode.observations) != n_steps + 1 or len(episode.actions) != n_steps:
        raise ValueError(
            f"{where} has {len(episode.observations)} observations, {len(episode.actions)} actions and "
            f"{n_steps} rewards; there must be one observation more than actions and rewards."
        )
    for name in ("observations", "actions", "rewards"):
        finite = np.isfinite(getattr(episode, name)).reshape(len(getattr(episode, name)), -1).all(axis=1)
        if not finite.all():
            raise ValueError(f"The {name} of {where} are NaN or infinite at step {int(np.argmin(finite))}.")
