"""What a model asks of the ``VecNormalize`` around its environments, and does with its statistics."""

from typing import Any

import numpy as np
from stable_baselines3.common.preprocessing import get_obs_shape
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

FEW_RESETS = 10
"""Statistics of no more observations than this number of resets gives are worth nothing."""

CHUNK = 10_000
"""Number of rows whose statistics are computed at once: they take eight bytes for each number of an observation."""


def check_normalization(env: VecEnv) -> None:
    """
    Check that the replay buffer and the policy see observations of the same shape.

    :param env: Environments, as a model steps them.
    :raises ValueError: If they are wrapped further around their ``VecNormalize``. The replay buffer keeps observations
        as they come to ``VecNormalize``, which then have other shapes than what the policy sees.
    """
    normalize = unwrap_vec_normalize(env)
    if normalize is None:
        return
    seen, kept = get_obs_shape(env.observation_space), get_obs_shape(normalize.observation_space)
    if seen != kept:
        raise ValueError(
            f"The replay buffer keeps observations as they come to VecNormalize, here of shape {kept}, and the policy "
            f"sees {seen}: put VecNormalize outermost, as in VecNormalize(VecTransposeImage(env)) for images whose "
            "channels come last, or VecNormalize(VecFrameStack(env, 4))."
        )


def statistics_of(normalize: VecNormalize) -> dict[str, Any]:
    """
    Get the statistics of a ``VecNormalize``.

    :param normalize: The wrapper.
    :return: ``ret_rms`` and, if observations are normalized, ``obs_rms``.
    """
    return {name: vars(normalize)[name] for name in ("obs_rms", "ret_rms") if name in vars(normalize)}


def n_observations(statistics: dict[str, Any]) -> float:
    """
    Count what statistics are of.

    :param statistics: Statistics as :func:`statistics_of` returns them.
    :return: Number of observations; infinite if the statistics were set without any observation.
    """
    counts = [0.0]
    for rms in _by_entry(statistics.get("obs_rms")).values():
        by_hand = rms.count < 1.0 and bool((rms.mean != 0.0).any() or (rms.var != 1.0).any())
        counts.append(np.inf if by_hand else rms.count)
    return max(counts)


def is_unused(statistics: dict[str, Any], n_envs: int) -> bool:
    """
    Tell whether statistics are those of a ``VecNormalize`` that was at most reset.

    :param statistics: Statistics as :func:`statistics_of` returns them.
    :param n_envs: Number of environments.
    :return: Whether no step and no more than :data:`FEW_RESETS` resets went into them.
    """
    return statistics["ret_rms"].count < 1.0 and n_observations(statistics) < FEW_RESETS * n_envs + 1


def fit_observations(normalize: VecNormalize, observations: Any) -> None:
    """
    Set the statistics of observations to those of given observations.

    :param normalize: The wrapper. It normalizes observations.
    :param observations: Observations ``(rows, n_envs, *)``, or a dictionary of such arrays.
    """
    for name, rms in _by_entry(normalize.obs_rms).items():
        array = observations if name is None else observations[name]
        fitted = RunningMeanStd(epsilon=0.0, shape=rms.mean.shape)
        for first in range(0, len(array), CHUNK):
            fitted.update(array[first : first + CHUNK].reshape(-1, *rms.mean.shape).astype(np.float64))
        vars(rms).update(vars(fitted))


def _by_entry(obs_rms: Any) -> dict[str | None, RunningMeanStd]:
    """:return: Statistics by the entry of a ``Dict``; of other observations, by None."""
    if obs_rms is None:
        return {}
    return obs_rms if isinstance(obs_rms, dict) else {None: obs_rms}
