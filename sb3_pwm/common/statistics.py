"""Running statistics that scale rewards and returns."""

import torch as th
from torch import nn


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
