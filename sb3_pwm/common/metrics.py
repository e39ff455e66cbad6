"""Metrics of updates, collected on the device."""

from collections import defaultdict

import torch as th


class Metrics:
    """Values of named metrics, kept as tensors on the device, so that only :meth:`means` waits for the device."""

    def __init__(self) -> None:
        self._values: dict[str, list[th.Tensor]] = defaultdict(list)

    def record(self, **values: th.Tensor) -> None:
        """
        Add one value to each of several metrics.

        :param values: Scalar tensors, by the name of the metric. They are detached.
        """
        for name, value in values.items():
            self._values[name].append(value.detach())

    def means(self) -> dict[str, float]:
        """:return: Mean of each metric, by its name. One transfer from the device reads all of them."""
        if not self._values:
            return {}
        means = th.stack([th.stack(values).mean() for values in self._values.values()]).tolist()
        return dict(zip(self._values, means, strict=True))
