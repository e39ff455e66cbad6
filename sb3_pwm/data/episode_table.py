"""Where the episodes of a replay buffer begin and end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class EpisodeTable:
    """
    Episodes of a replay buffer that is filled step by step, and forgets its oldest steps.

    Adding a step takes no longer the more steps there are. Steps are counted from the oldest one at the time when the
    table was made.

    :param dones: Whether each stored step ended its episode, the oldest step first, ``(steps, n_envs)``.
    """

    def __init__(self, dones: NDArray[np.floating]):
        ends = dones.T > 0.0  # (n_envs, steps)
        begins = np.ones_like(ends)
        begins[:, 1:] = ends[:, :-1]
        self._envs, self._first = np.nonzero(begins)
        self._n_steps, n_envs = dones.shape
        lengths = np.diff(np.append(self._envs * self._n_steps + self._first, self._n_steps * n_envs))
        self._end = self._first + lengths  # the step after the last one
        self._open = np.flatnonzero(np.append(self._envs[1:] != self._envs[:-1], True))  # row of each environment
        self._ended = ends[:, -1].copy()  # whether the open episode has ended: the next step begins another
        self._end[self._open[~self._ended]] = np.iinfo(np.int64).max
        self._first_end = int(self._end.min())

    def add(self, dones: NDArray[np.floating], size: int) -> None:
        """
        Add a step of each environment.

        :param dones: Whether the step ended its episode, ``(n_envs,)``.
        :param size: Number of steps that are stored now. The older ones are forgotten.
        """
        if self._ended.any():
            envs = np.flatnonzero(self._ended)
            self._open[envs] = len(self._first) + np.arange(len(envs))
            self._envs = np.append(self._envs, envs)
            self._first = np.append(self._first, np.full(len(envs), self._n_steps))
            self._end = np.append(self._end, np.full(len(envs), np.iinfo(np.int64).max))
        self._n_steps += 1
        self._ended = dones > 0.0
        if self._ended.any():
            self._end[self._open[self._ended]] = self._n_steps
            self._first_end = min(self._first_end, self._n_steps)
        oldest = self._n_steps - size
        if self._first_end <= oldest:
            self._forget(oldest)

    def _forget(self, oldest: int) -> None:
        """Remove episodes that ended before a step."""
        kept = self._end > oldest
        self._open = np.cumsum(kept)[self._open] - 1
        self._envs, self._first, self._end = self._envs[kept], self._first[kept], self._end[kept]
        self._first_end = int(self._end.min())

    def __len__(self) -> int:
        return len(self._first)

    def lookup(self, episodes: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], ...]:
        """
        Look episodes up.

        :param episodes: Indices of episodes.
        :param size: Number of steps that are stored now.
        :return: First stored step, counted from the oldest one, environment and number of stored steps of each episode.
        """
        oldest = self._n_steps - size
        first = np.maximum(self._first[episodes], oldest)
        return first - oldest, self._envs[episodes], np.minimum(self._end[episodes], self._n_steps) - first
