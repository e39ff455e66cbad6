"""Types of experience: episodes, the episodes of a task, and batches of sequences."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch as th
from numpy.typing import NDArray


def tells_nothing(reward: float | None, terminates: bool) -> bool:
    """
    Whether there is nothing for a policy to learn from rewards.

    :param reward: The reward of every step, if all steps have the same one; else None.
    :param terminates: Whether an episode terminates, so that a policy can earn more or less by ending episodes.
    :return: Whether no policy earns more than another.
    """
    return reward is not None and (reward == 0.0 or not terminates)


class Outcome(NamedTuple):
    """What followed the steps of B sequences until the ends of their episodes, see :class:`SequenceSampling`."""

    returns: th.Tensor
    """``(H, B)`` discounted sum of the rewards from each step to the end of its episode. Not a number for the newest
    steps, see :meth:`~sb3_pwm.SequenceReplayBuffer.sample_sequences`."""
    bootstrap: th.Tensor
    """``(H, B)`` discount of the value after the last step of the episode; zero if that step terminated it"""
    last_observations: th.Tensor
    """Observations ``(B, *)`` after the last steps of the sequences' first episodes, or a dictionary of such tensors"""


class SequenceBatch(NamedTuple):
    """
    B sequences of H consecutive steps, time first.

    ``observations[t + 1]`` is the true next observation of step t, also if step t ended the episode. Steps after the
    end of the episode have mask zero, and their values are arbitrary but finite.
    """

    observations: th.Tensor
    """Observations ``(H + 1, B, *)``, or a dictionary of such tensors if the observation space is a ``Dict``"""
    actions: th.Tensor
    """Actions ``(H, B, A)``, scaled to [-1, 1]"""
    rewards: th.Tensor
    """Rewards ``(H, B)``, in the environment's units"""
    terminations: th.Tensor
    """``(H, B)``, one if the step terminated the episode, else zero. A truncation is not a termination."""
    mask: th.Tensor
    """``(H, B)``, one for the steps until the end of the sequence's first episode, else zero"""
    task: th.Tensor | None = None
    """Task indices ``(B,)``; None in single-task learning"""
    outcome: Outcome | None = None
    """What followed until the ends of the episodes, if it was asked for"""
    representative: th.Tensor | None = None
    """``(B,)``, one for sequences that were drawn as the data has them, zero for those that were drawn to show ends of
    episodes. None if all were drawn as the data has them."""


@dataclasses.dataclass(frozen=True)
class SequenceSampling:
    """
    How the first steps of replayed sequences are drawn. By default all steps are equally likely.

    A policy that starts every episode anew meets the first steps of episodes more often than their share of the data,
    as the objective counts them: step t of an episode with the weight ``gamma ** t`` (the discounted distribution of
    states of the policy gradient theorem). A model that goes on in the environment after offline learning has much data
    and few steps of its own, which are lost in the data if all steps are equally likely (RLPD, arXiv 2302.02948).

    :param discounted_fraction: Fraction of the sequences that are drawn with the weight ``gamma ** t``, of those that
        are not drawn from new steps.
    :param gamma: Discount factor of these weights, at most 1.
    :param new_fraction: Fraction of the sequences that are drawn from the steps of the environment since the last data
        was added. It is lower while these steps are so few that each would be drawn more than once in a batch on
        average.
    """

    discounted_fraction: float = 0.0
    gamma: float = 0.99
    new_fraction: float = 0.0


UNIFORM = SequenceSampling()
"""All steps are equally likely."""


class Episode(NamedTuple):
    """One episode of T steps, in the dimensions of its own task."""

    observations: NDArray[np.float32]
    """Observations ``(T + 1, O)``. The last one is the observation after the last step."""
    actions: NDArray[np.float32]
    """Actions ``(T, A)``, scaled to [-1, 1]"""
    rewards: NDArray[np.float32]
    """Rewards ``(T,)``"""
    terminated: bool
    """Whether the last step terminated the episode; if not, it truncated it"""


class SourceEpisode(NamedTuple):
    """An episode that is being read into a data set."""

    task: str
    """Name of the task"""
    episode: Episode
    """The episode"""
    where: str
    """File and number of the episode, for messages"""


@dataclasses.dataclass(frozen=True)
class TaskData:
    """
    All episodes of a task, one after the other in the same arrays.

    An episode of T steps has T + 1 rows. The first T rows hold the observation, the action and the reward of a step,
    the last row holds the last observation.

    :param name: Name of the task.
    :param observations: Observations ``(rows, O)``.
    :param actions: Actions ``(rows, A)``; zero in the last row of an episode.
    :param rewards: Rewards ``(rows,)``; zero in the last row of an episode.
    :param first: Index of the first row of each episode, ``(E,)``.
    :param lengths: Number of steps of each episode, ``(E,)``.
    :param terminated: Whether each episode terminated, ``(E,)``.
    """

    name: str
    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    first: NDArray[np.int64]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]

    def subset(self, episodes: NDArray[np.int64]) -> TaskData:
        """
        Select episodes without copying them.

        :param episodes: Indices of the episodes.
        :return: Data of these episodes, in the same arrays.
        """
        return dataclasses.replace(
            self, first=self.first[episodes], lengths=self.lengths[episodes], terminated=self.terminated[episodes]
        )

    @property
    def returns(self) -> NDArray[np.float32]:
        """Sum of the rewards of each episode, ``(E,)``."""
        return np.array([self.episode(number).rewards.sum() for number in range(len(self.lengths))])

    @property
    def reward_range(self) -> tuple[float, float]:
        """Smallest and largest reward in the arrays."""
        return float(np.min(self.rewards)), float(np.max(self.rewards))

    @property
    def constant_reward(self) -> float | None:
        """The reward of every step, if all steps have the same one; else None."""
        value = float(self.rewards[self.first[0]])
        for first, length in zip(self.first.tolist(), self.lengths.tolist(), strict=True):
            if (self.rewards[first : first + length] != value).any():
                return None
        return value

    def episode(self, number: int) -> Episode:
        """
        Read one episode.

        :param number: Index of the episode.
        :return: The episode.
        """
        first, length = int(self.first[number]), int(self.lengths[number])
        steps = slice(first, first + length)
        observations = np.asarray(self.observations[first : first + length + 1])
        actions, rewards = np.asarray(self.actions[steps]), np.asarray(self.rewards[steps])
        return Episode(observations, actions, rewards, bool(self.terminated[number]))
