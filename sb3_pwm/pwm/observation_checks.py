"""Checks of observations: those of the data, and those of environments against them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pwm.common.observations import map_observations
from sb3_pwm.common.outliers import ObservationSummary, summarize
from sb3_pwm.data.replay_buffer import SequenceReplayBuffer
from sb3_pwm.pwm.policies import PWMPolicy

MAX_VALUES = 20_000_000
"""Largest number of values that a summary reads"""
CHUNK = 10_000
"""Number of rows that are preprocessed at once"""

FEW = 100
"""Number of observations of environments that tell whether they are far from the data. Later ones may be far in any
case: angles that count revolutions, for instance."""
FAR = 50.0
"""Observations are far from the data if they are this many standard deviations beyond its extremes."""
MANY = 1_000
"""Number of observations of environments that tell whether they vary far less than the data"""
NARROW = 10.0
"""Observations vary far less than the data if their range is this many times smaller than its standard deviation, in
each dimension. For the data of random actions and an environment at rest, the smallest of these ratios is below one."""


def summarize_buffer(
    buffer: SequenceReplayBuffer, policy: PWMPolicy, vec_normalize: VecNormalize | None
) -> ObservationSummary | None:
    """
    Compute statistics of the observations in a replay buffer, as the world model sees them.

    :param buffer: The replay buffer.
    :param policy: The policy of the world model.
    :param vec_normalize: ``VecNormalize`` of the observations, if any.
    :return: The statistics. If the buffer is large, they are of steps that are drawn at random. None if the buffer is
        empty, or the features extractor learns, so that what the world model sees moves.
    """
    if buffer.size() == 0 or any(True for _ in policy.features_extractor.parameters()):
        return None
    n_rows = max(MAX_VALUES // (policy.features_extractor.features_dim * buffer.n_envs), 1)
    rows = np.arange(buffer.size())
    if n_rows < len(rows):
        rows = np.sort(np.random.default_rng(0).choice(len(rows), n_rows, replace=False))
    parts = []
    for first in range(0, len(rows), CHUNK):
        chunk = rows[first : first + CHUNK]
        stored = map_observations(
            lambda values, chunk=chunk: values[chunk].reshape(-1, *values.shape[2:]), buffer.stored_observations()
        )
        seen = buffer._normalize_obs(stored, vec_normalize)
        with th.no_grad():
            tensors = map_observations(lambda values: th.as_tensor(values, device=policy.device), seen)
            parts.append(policy.extract_features(tensors, policy.features_extractor).cpu().numpy())
    return summarize(np.concatenate(parts))


class ObservationWatch:
    """
    Compares the observations that a policy acts on with those of the data it has learned from, and warns once if their
    scales differ grossly. It looks at the first thousand observations.

    An environment that starts in a narrow part of the data, and a policy that goes beyond it, are no reason to warn.

    :param data: Statistics of the data.
    :param space: Observation space of the environment. Only a ``Box`` is compared, and no images.
    """

    def __init__(self, data: ObservationSummary, space: spaces.Space[Any]):
        self.data = data
        varies = data.std > 1e-6 * np.maximum(np.abs(data.mean), 1.0)
        typical = float(np.median(data.std[varies])) if varies.any() else 0.0
        # What hardly moves in the data may move elsewhere, as far as other dimensions do.
        self._scale = np.where(varies, np.maximum(data.std, 0.1 * typical), np.maximum(np.abs(data.mean), 1.0))
        self._varies = varies
        self._seen: list[NDArray[np.float64]] = []
        self._n_seen = 0
        flat = isinstance(space, spaces.Box) and space.dtype != np.uint8
        self.done = not flat or int(np.prod(space.shape)) != len(data.mean)  # type: ignore[arg-type]

    def look(self, observations: Any) -> None:
        """
        Look at observations, and warn once if they are of another scale than the data.

        :param observations: One observation, or a batch.
        """
        values = np.asarray(observations)
        size = len(self.data.mean)
        if self.done or values.dtype.kind not in "iuf" or values.size % size:
            return  # the policy says what is wrong with them
        rows = values.astype(np.float64).reshape(-1, size)
        self._seen.append(rows)
        n_before, self._n_seen = self._n_seen, self._n_seen + len(rows)
        if n_before < FEW <= self._n_seen:
            self._look_for_far(np.concatenate(self._seen))
        if self._n_seen >= MANY and not self.done:
            self._look_for_narrow(np.concatenate(self._seen))
            self.done = True
        if self.done:
            self._seen = []

    def _look_for_far(self, seen: NDArray[np.float64]) -> None:
        beyond = np.maximum(seen - self.data.high, self.data.low - seen) / self._scale
        far = np.flatnonzero((beyond > FAR).mean(0) > 0.25)
        if len(far):
            self._warn(seen, int(far[0]), f"{len(far)} of {len(self.data.mean)} dimensions are far from the data")

    def _look_for_narrow(self, seen: NDArray[np.float64]) -> None:
        spread = np.ptp(seen, axis=0)
        moving = self._varies & (spread > 0.0)
        if moving.any() and (self.data.std[moving] > NARROW * spread[moving]).all():
            self._warn(seen, int(np.argmax(moving)), "they vary far less than those of the data")

    def _warn(self, seen: NDArray[np.float64], dimension: int, what: str) -> None:
        self.done = True
        mean, std = seen[:, dimension].mean(), seen[:, dimension].std()
        warnings.warn(
            f"The observations of the environment are not like those of the data: {what}. For instance, "
            f"dimension {dimension} is {self.data.mean[dimension]:.3g} +- {self.data.std[dimension]:.3g} in the data, "
            f"and {mean:.3g} +- {std:.3g} in the environment. Check units and wrappers, and whether the data shows "
            "what the policy is to do: it knows nothing else."
        )
