"""Mean and spread of observations that a few wrong values do not move."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TAIL = 0.01
"""Share of the values at either end that may be outliers"""
WIDTHS = 1000.0
"""Outliers are this many widths of the other values away from them, or more."""
FLATTENED = 10.0
"""Outliers count as such if the standard deviation is larger by this factor with them."""
LISTED = 5
"""Number of dimensions that a message names"""


class ObservationSummary(NamedTuple):
    """Statistics of each of O dimensions, without outliers."""

    mean: NDArray[np.float64]
    """Means ``(O,)``"""
    std: NDArray[np.float64]
    """Standard deviations ``(O,)``"""
    low: NDArray[np.float64]
    """Smallest values ``(O,)``"""
    high: NDArray[np.float64]
    """Largest values ``(O,)``"""
    n_outliers: NDArray[np.int64]
    """Numbers of values that were left out ``(O,)``"""
    largest: NDArray[np.float64]
    """Values ``(O,)`` farthest from the mean, outliers included"""
    n_rows: int
    """Number of observations"""


def summarize(observations: NDArray[np.floating]) -> ObservationSummary:
    """
    Compute statistics of observations, dimension by dimension, without outliers.

    A few values that are extremely far from the others, such as an error code of a sensor, would make the standard
    deviation so large that the others could not be told apart. They are left out. A value that occurs rarely in a
    dimension that is otherwise constant is no outlier, nor is a large value where values vary as widely as those of
    contact forces do.

    :param observations: Observations ``(N, O)``.
    :return: The statistics.
    """
    mean, std = observations.mean(0, dtype=np.float64), observations.std(0, dtype=np.float64)
    low, high = observations.min(0).astype(np.float64), observations.max(0).astype(np.float64)
    largest = np.where(high - mean > mean - low, high, low)
    n_outliers = np.zeros(len(mean), np.int64)
    # Values that are few are many standard deviations from the mean. This leaves few dimensions to sort.
    for dimension in np.flatnonzero(np.abs(largest - mean) > 0.9 * std / np.sqrt(2 * TAIL)):
        values = observations[:, dimension].astype(np.float64)
        inner = values[_is_inner(values)]
        if len(inner) == len(values):
            continue
        rounding = 1e-6 * max(abs(inner.mean()), 1.0)
        if rounding < inner.std() < std[dimension] / FLATTENED:
            n_outliers[dimension] = len(values) - len(inner)
            mean[dimension], std[dimension] = inner.mean(), inner.std()
            low[dimension], high[dimension] = inner.min(), inner.max()
    return ObservationSummary(mean, std, low, high, n_outliers, largest, len(observations))


def _is_inner(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """:return: Whether each value is near the most of them."""
    low = np.quantile(values, TAIL, method="higher")
    high = np.quantile(values, 1.0 - TAIL, method="lower")
    margin = WIDTHS * (high - low)
    return (values >= low - margin) & (values <= high + margin)


def warn_of_outliers(summary: ObservationSummary, where: str) -> None:
    """
    Warn if there are outliers.

    :param summary: Statistics of the observations.
    :param where: Noun phrase for what has the observations, for the message: ``"The data of walker-walk"``.
    """
    dimensions = np.flatnonzero(summary.n_outliers).tolist()
    if not dimensions:
        return
    parts = [
        f"dimension {i} in {summary.n_outliers[i]} of {summary.n_rows} rows (up to {summary.largest[i]:g}, the others "
        f"lie between {summary.low[i]:g} and {summary.high[i]:g})"
        for i in dimensions[:LISTED]
    ]
    more = f", and {len(dimensions) - LISTED} other dimensions" if len(dimensions) > LISTED else ""
    warnings.warn(
        f"{where} has outliers in its observations: {', '.join(parts)}{more}. World models that normalize observations "
        "leave these values out of the statistics, and clip them. If they are errors, correct them or remove their "
        "episodes."
    )
