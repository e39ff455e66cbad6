"""The evaluation that all algorithms share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pwm import PWM

EPISODES = 10
FIRST_SEED = 1000
"""Seed of the first episode. Each following episode has the next seed."""

REFERENCE_RETURNS = {
    "HalfCheetah-v5": (-280.18, 12135.0),
    "Hopper-v5": (-20.27, 3234.3),
    "Walker2d-v5": (1.63, 4592.3),
}
"""Returns of D4RL's random policy and expert, which have the normalized scores 0 and 100"""

Predict = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Function from observations ``(N, O)`` to actions ``(N, A)`` in the bounds of the environment"""


def evaluate(predict: Predict, env_id: str, episodes: int = EPISODES) -> list[float]:
    """
    Play episodes with fixed seeds.

    :param predict: The deterministic policy.
    :param env_id: Environment id.
    :param episodes: Number of episodes.
    :return: The return of each episode.
    """
    envs = [gymnasium.make(env_id) for _ in range(episodes)]
    observations = [env.reset(seed=FIRST_SEED + number)[0] for number, env in enumerate(envs)]
    returns, running = [0.0] * episodes, list(range(episodes))
    while running:
        actions = predict(np.stack([observations[number] for number in running]).astype(np.float32))
        still = []
        for number, action in zip(running, actions, strict=True):
            observations[number], reward, terminated, truncated, _ = envs[number].step(action)
            returns[number] += float(reward)
            if not (terminated or truncated):
                still.append(number)
        running = still
    for env in envs:
        env.close()
    return returns


def evaluate_pwm(path: Path, env_id: str, vec_normalize: Path | None = None) -> tuple[list[float], int]:
    """
    Evaluate a saved PWM.

    :param path: File of the model.
    :param env_id: Environment id.
    :param vec_normalize: File of ``VecNormalize`` if the model was trained with one.
    :return: The return of each episode, and the number of updates that the model has learned.
    """
    model = PWM.load(path, device="cpu")

    def predict(observations: NDArray[np.float32]) -> NDArray[Any]:
        if normalize is not None:
            observations = normalize.normalize_obs(observations)  # type: ignore[assignment]
        return model.predict(observations, deterministic=True)[0]

    normalize = None
    if vec_normalize is not None:
        normalize = VecNormalize.load(str(vec_normalize), DummyVecEnv([lambda: gymnasium.make(env_id)]))
    return evaluate(predict, env_id), model.num_timesteps


def normalized(env_id: str, score: float) -> float | None:
    """:return: D4RL's normalized score of a return. None if the environment has no reference returns."""
    if env_id not in REFERENCE_RETURNS:
        return None
    low, high = REFERENCE_RETURNS[env_id]
    return 100.0 * (score - low) / (high - low)
