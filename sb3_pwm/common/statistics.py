"""Running statistics: scales of rewards and returns, and mean and spread of observations and latents."""

import math
from typing import Any

import torch as th
from torch import nn

NOT_QUITE_ONE = 1.0 + 2.0**-23
"""Stands for a standard deviation of one: exactly one marks a value that has not varied yet"""


class RunningScale(nn.Module):
    """
    Exponential moving average of a positive statistic, corrected for its bias at the start, as Adam's averages are.

    Rewards and returns are divided by it. They are not shifted by a mean: a shift would change the task where
    episodes can terminate. The average is part of the state dict of the policy.

    :param decay: Weight of the old average in an update.
    :param minimum: Lower bound of the scale, so that a nearly constant signal is not amplified.
    """

    average: th.Tensor
    weight: th.Tensor

    def __init__(self, decay: float = 0.99, minimum: float = 0.01):
        super().__init__()
        self.decay = decay
        self.minimum = minimum
        self.register_buffer("average", th.zeros(()))
        self.register_buffer("weight", th.zeros(()))

    @th.no_grad()
    def update(self, statistic: th.Tensor) -> None:
        """
        Update the average.

        :param statistic: Value of the statistic for the current batch, a scalar tensor.
        """
        self.average.lerp_(statistic, 1.0 - self.decay)
        self.weight.lerp_(th.ones_like(self.weight), 1.0 - self.decay)

    @property
    def value(self) -> th.Tensor:
        """Current scale, a scalar tensor. It is one before the first update."""
        unbiased = self.average / self.weight.clamp(min=1e-8)
        return th.where(self.weight > 0, unbiased.clamp(min=self.minimum), th.ones_like(unbiased))


class ObservationStatistics(nn.Module):
    """
    Mean and standard deviation of observations, or of latents, one row for each task.

    Normalized values are clipped, so that outliers do not reach the networks. A row in which no observation has been
    counted does not clip, and is the identity unless it was copied from another row.

    :param n_rows: Number of rows.
    :param size: Size of an observation, O.
    :param max_count: Largest number of observations that the running statistics remember: beyond it, old observations
        are forgotten, so that the statistics follow a replay buffer that changes.
    :param clip: Bound of normalized values.
    :param shared_scale: Whether all values of an observation are divided by the same number, the root mean square of
        their standard deviations, so that values that vary less stay smaller.
    """

    mean: th.Tensor
    std: th.Tensor
    count: th.Tensor

    def __init__(
        self, n_rows: int, size: int, max_count: float = 100_000.0, clip: float = 10.0, shared_scale: bool = False
    ):
        super().__init__()
        self.max_count = max_count
        self.clip = clip
        self.shared_scale = shared_scale
        self.register_buffer("mean", th.zeros(n_rows, size))
        self.register_buffer("std", th.ones(n_rows, size))
        self.register_buffer("count", th.zeros(n_rows))
        self._clipped = [False] * n_rows  # whether observations have been counted in each row: comparing takes time

    def forward(self, observations: th.Tensor, row: th.Tensor | int = 0) -> th.Tensor:
        """
        Normalize observations.

        :param observations: Observations ``(..., O)``.
        :param row: Row of each observation, ``(...)`` or a shape that broadcasts to it; or one row for all.
        :return: Normalized observations ``(..., O)``.
        """
        normalized = (observations - self.mean[row]) / self._scale(row)
        if all(self._clipped):
            return normalized.clamp(-self.clip, self.clip)
        if not any(self._clipped):
            return normalized
        bound = th.where(self.count[row] > 0, self.clip, math.inf).unsqueeze(-1)
        return th.clamp(normalized, -bound, bound)

    def _scale(self, row: th.Tensor | int) -> th.Tensor:
        """:return: What observations of a row are divided by, after the mean is subtracted."""
        std = self.std[row]
        if not self.shared_scale:
            return std
        varies = std != 1.0
        shared = th.where(varies, std**2, 0.0).mean(-1, keepdim=True).sqrt()
        return th.where(varies.any(-1, keepdim=True), shared, 1.0)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._clipped = (self.count > 0).tolist()

    @th.no_grad()
    def update(self, observations: th.Tensor, row: int = 0) -> None:
        """
        Count further observations in a row.

        :param observations: Observations ``(N, O)``.
        :param row: The row.
        """
        n_new, n_old = float(len(observations)), self.count[row].clamp(max=self.max_count)
        total = n_old + n_new
        delta = observations.mean(0) - self.mean[row]
        varied = (n_old > 0) & (self.std[row] != 1.0)
        old = th.where(varied, self.std[row] ** 2, 0.0)
        var = (n_old * old + n_new * observations.var(0, correction=0) + delta**2 * n_old * n_new / total) / total
        self.set(self.mean[row] + delta * n_new / total, var.sqrt(), total, row)

    @th.no_grad()
    def set(self, mean: th.Tensor, std: th.Tensor, count: th.Tensor | float, row: int = 0) -> None:
        """
        Set a row. The standard deviation of a value that hardly varies becomes one.

        :param mean: Means ``(n,)``, n at most O. The other values of the row keep their scale.
        :param std: Standard deviations ``(n,)``.
        :param count: Number of observations.
        :param row: The row.
        """
        # Rounding in single precision looks like variation, and must not be blown up.
        constant = std <= 1e-6 * mean.abs().clamp(min=1.0)
        self.mean[row, : len(mean)] = mean
        self.std[row, : len(mean)] = th.where(constant, 1.0, th.where(std == 1.0, NOT_QUITE_ONE, std))
        self.count[row] = count
        self._clipped[row] = True

    def add_row(self, like: int | None = None) -> None:
        """
        Add a row in which no observation has been counted.

        :param like: Row whose mean and standard deviation the new one has until then. None: it is the identity.
        """
        for name, fill in (("mean", 0.0), ("std", 1.0), ("count", 0.0)):
            rows = getattr(self, name)
            new = th.full_like(rows[:1], fill) if like is None or name == "count" else rows[like : like + 1]
            setattr(self, name, th.cat([rows, new]))
        self._clipped.append(False)
