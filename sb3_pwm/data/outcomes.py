"""What followed the steps of a replay buffer until the ends of their episodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sb3_pwm.data.episode_table import EpisodeTable


class OutcomeTable:
    """
    Discounted sums of the rewards that followed each stored step, and where its episode ended.

    An episode that has not ended counts as truncated after its newest step.

    :param rows: Row of the replay buffer of each step, the oldest step first, ``(steps,)``.
    :param episodes: Episodes of these steps.
    :param rewards: Rewards of the steps, ``(steps, n_envs)``.
    :param terminations: One for each step that terminated its episode, else zero, ``(steps, n_envs)``.
    :param gamma: Discount factor.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        episodes: EpisodeTable,
        rewards: NDArray[np.floating],
        terminations: NDArray[np.floating],
        gamma: float,
    ):
        n_steps, n_envs = rewards.shape
        self.gamma = gamma
        self.n_unknown = 0
        """Number of rows that were written since"""
        first, envs, lengths = episodes.lookup(np.arange(len(episodes)), n_steps)
        # The steps of an environment are neighbors here, (n_envs * steps,), and each belongs to one episode.
        starts = envs * n_steps + first
        last = starts + lengths - 1
        returns = rewards.T.astype(np.float64).ravel()
        for back in range(1, int(lengths.max())):  # all episodes at once, from their ends
            steps = last[lengths > back] - back
            returns[steps] += gamma * returns[steps + 1]
        order = np.argsort(starts)
        ends = np.repeat(last[order], lengths[order])
        bootstrap = (1.0 - terminations.T.ravel()[ends]) * gamma ** (ends - np.arange(len(ends)) + 1.0)

        def by_row(values: NDArray[np.float64]) -> NDArray[np.float32]:
            table = np.full((rows.max() + 1, n_envs), np.nan, np.float32)
            table[rows] = values.reshape(n_envs, n_steps).T
            return table

        self._returns, self._bootstrap = by_row(returns), by_row(bootstrap)
        self._ends = np.zeros(self._returns.shape, np.int64)
        self._ends[rows] = rows[ends % n_steps].reshape(n_envs, n_steps).T

    def lookup(
        self, rows: NDArray[np.int64], envs: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """
        Look steps up.

        :param rows: Rows of the steps, an array of any shape.
        :param envs: Environments of the steps, of the same shape or one that is broadcast to it.
        :return: Discounted sum of the rewards from each step to the end of its episode; discount of the value after
            that end, zero if the episode terminated; row of the last step. The first two are not a number for rows that
            were written since, the third is the step's own row.
        """
        known = rows < len(self._returns)
        inside = np.where(known, rows, 0)
        returns, bootstrap = (
            np.where(known, table[inside, envs], np.float32(np.nan)) for table in (self._returns, self._bootstrap)
        )
        return returns, bootstrap, np.where(np.isnan(returns), rows, self._ends[inside, envs])

    def write(self, row: int) -> None:
        """
        Take note that a row of the replay buffer is written.

        :param row: The row.
        """
        self.n_unknown += 1
        if row < len(self._returns):
            self._returns[row] = self._bootstrap[row] = np.nan
