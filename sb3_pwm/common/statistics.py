"""Running statistics that put rewards and returns on a common scale."""

import torch as th
from torch import nn


class RunningScale(nn.Module):
    """
    Exponential moving average of a positive statistic, free of start-up bias, kept with the policy's parameters.

    Rewards and returns are divided by it and never shifted: a shift would change the task where episodes can end.

    :param decay: Weight of the past in each update.
    :param minimum: Lower bound of the scale, so that a constant signal is not blown up.
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
        """:param statistic: Scalar tensor: this batch's value of the statistic."""
        self.average.lerp_(statistic, 1.0 - self.decay)
        self.weight.lerp_(th.ones_like(self.weight), 1.0 - self.decay)

    @property
    def value(self) -> th.Tensor:
        """Scalar tensor: the scale, one before the first update."""
        unbiased = self.average / self.weight.clamp(min=1e-8)
        return th.where(self.weight > 0, unbiased.clamp(min=self.minimum), th.ones_like(unbiased))
