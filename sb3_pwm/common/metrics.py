"""Metrics of updates, collected on the device and read once."""

from collections import defaultdict

import torch as th


class Metrics:
    """Values of named metrics, as tensors on the device. Nothing waits for the device until :meth:`means`."""

    def __init__(self) -> None:
        self._values: dict[str, list[th.Tensor]] = defaultdict(list)

    def record(self, **values: th.Tensor) -> None:
        """
        Add a value to each of several metrics.

        :param values: Scalar tensors by the metric's name. Gradients are dropped.
        """
        for name, value in values.items():
            self._values[name].append(value.detach())

    def means(self) -> dict[str, float]:
        """:return: The mean of each metric, with one transfer from the device for all of them."""
        if not self._values:
            return {}
        means = th.stack([th.stack(values).mean() for values in self._values.values()]).tolist()
        return dict(zip(self._values, means, strict=True))
