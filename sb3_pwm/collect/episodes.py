"""Collected episodes: stepped in an environment, or taken from a replay buffer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_pwm.collect.policies import Policy
from sb3_pwm.common.actions import scale_actions, unscale_actions
from sb3_pwm.data.cleaning import clean_episode
from sb3_pwm.data.readers.replay_buffer import read_replay_buffer, replay_buffer_episodes

MAX_EPISODE_STEPS = 100_000
"""Number of steps after which an episode is taken to have no end, if the environment is registered without a limit"""


BURST = 5
"""Number of steps of a burst of noise"""


class CollectedEpisode(NamedTuple):
    """One episode of T steps, as Minari stores it."""

    observations: NDArray[np.float32]
    """Observations ``(T + 1, O)``. The last one is the observation after the last step."""
    actions: NDArray[Any]
    """Actions ``(T, *)`` that the environment got, in the bounds and the dtype of its action space"""
    rewards: NDArray[np.float32]
    """Rewards ``(T,)``"""
    terminations: NDArray[np.bool_]
    """Whether each step terminated the episode, ``(T,)``"""
    truncations: NDArray[np.bool_]
    """Whether each step truncated the episode, ``(T,)``"""
    behavior: int = 0
    """Index of the behavior that acted"""
    success: NDArray[np.float32] | None = None
    """One if a step was a success, else zero, ``(T,)``. None if the task or the replay buffer does not say it."""


def run_episode(
    env: gymnasium.Env[Any, Any],
    policy: Policy,
    noise: float,
    seed: np.random.SeedSequence,
    noisy_share: float = 1.0,
) -> CollectedEpisode:
    """
    Run an episode in an environment.

    :param env: The environment.
    :param policy: The policy.
    :param noise: Standard deviation of Gaussian noise on the actions, for actions that are scaled to [-1, 1].
    :param seed: Seed of the start state, the random actions and the noise.
    :param noisy_share: Share of the steps that have noise, see :func:`noisy_steps`.
    :return: The episode, with flat observations.
    :raises ValueError: If the episode does not end.
    """
    space = env.action_space
    assert isinstance(space, spaces.Box)
    is_limited = env.spec is not None and env.spec.max_episode_steps is not None
    start, actions_seed, noise_seed = (int(word) for word in seed.generate_state(3))
    env.action_space.seed(actions_seed)
    rng = np.random.default_rng(noise_seed)
    is_noisy = noisy_steps(noisy_share, rng)
    observation, _ = env.reset(seed=start)
    observations = [_flat(env, observation)]
    actions: list[NDArray[Any]] = []
    rewards, terminations, truncations, successes = [], [], [], []
    ended = False
    while not ended:
        action = _act(space, policy(observation, not actions), noise if next(is_noisy) else 0.0, rng)
        observation, reward, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
        if not ended and not is_limited and len(actions) >= MAX_EPISODE_STEPS:
            raise ValueError(
                f"An episode of {env} has not ended after {MAX_EPISODE_STEPS:,} steps: register the environment with "
                "max_episode_steps."
            )
        observations.append(_flat(env, observation))
        actions.append(action)
        rewards.append(float(reward))
        terminations.append(terminated)
        truncations.append(truncated)
        if "success" in info:
            successes.append(float(info["success"]))
    return CollectedEpisode(
        np.stack(observations).astype(np.float32),
        np.stack(actions),
        np.array(rewards, np.float32),
        np.array(terminations),
        np.array(truncations),
        success=np.array(successes, np.float32) if successes else None,
    )


def noisy_steps(share: float, rng: np.random.Generator) -> Iterator[bool]:
    """
    Choose the steps of an episode that have noise.

    :param share: Share of these steps. They come in bursts of :data:`BURST` steps, and the pauses between them are
        drawn from a geometric distribution, so that a burst may begin at any step. 1: all steps.
    :param rng: Generator of random numbers.
    :return: Endless iterator over the steps: whether they have noise.
    """
    while share >= 1.0:
        yield True
    mean_pause = BURST * (1.0 - share) / share
    while True:
        for _ in range(rng.geometric(1.0 / (1.0 + mean_pause)) - 1):
            yield False
        for _ in range(BURST):
            yield True


def _flat(env: gymnasium.Env[Any, Any], observation: Any) -> NDArray[Any]:
    """:return: The observation as a row of numbers. It is a copy: an environment may change its own array."""
    return np.asarray(spaces.flatten(env.observation_space, observation))


def _act(space: spaces.Box, action: NDArray[Any], noise: float, rng: np.random.Generator) -> NDArray[Any]:
    """:return: The action of a policy with noise, in the bounds and the dtype of the action space."""
    if noise > 0.0:
        scaled = scale_actions(space, action)
        scaled = scaled + np.float32(noise) * rng.standard_normal(scaled.shape, np.float32)
        return unscale_actions(space, np.clip(scaled, -1.0, 1.0))
    if not np.issubdtype(space.dtype, np.floating):
        action = np.rint(action)
    return np.clip(action, space.low, space.high).astype(space.dtype)


def replayed_episodes(path: Path, task: str, env: gymnasium.Env[Any, Any]) -> list[CollectedEpisode]:
    """
    Read the complete episodes of a replay buffer that SB3 or rl-zoo3 has saved. Reading the file can execute code in
    it, as with SB3's ``load_replay_buffer``: open only files that you trust.

    :param path: Folder of a run of rl-zoo3 with ``--save-replay-buffer``, or the pkl file of a replay buffer.
    :param task: Name of the task.
    :param env: Environment of the task.
    :return: The episodes, oldest first. An episode whose first or last step is not in the buffer is left out.
    :raises FileNotFoundError: If the file does not exist.
    :raises ValueError: If the replay buffer is of another environment, cannot be read, or holds no complete episode or
        a value that is not finite.
    """
    file = path if path.suffix == ".pkl" else path / "replay_buffer.pkl"
    # Two tasks of the same body can differ in the rewards only. The folder of the run names the environment.
    trained, _, run = file.parent.name.rpartition("_")
    assert env.spec is not None
    if run.isdigit() and trained in gymnasium.registry and trained != env.spec.id:
        raise ValueError(f"{file} was filled by {trained}, not by {env.spec.id}.")
    buffer = read_replay_buffer(file)
    shapes = (buffer.observation_space.shape, buffer.action_space.shape)
    if shapes != (env.observation_space.shape, env.action_space.shape):
        raise ValueError(
            f"{file} holds observations {shapes[0]} and actions {shapes[1]}; "
            f"{task} has {env.observation_space.shape} and {env.action_space.shape}."
        )
    assert isinstance(env.action_space, spaces.Box)
    episodes = []
    for _, episode, where in replay_buffer_episodes(buffer, task, str(file)):
        observations, actions, rewards, terminated = clean_episode(episode, where)
        if observations.shape[1] != spaces.flatdim(env.observation_space):
            raise ValueError(
                f"{file} holds observations of {env.observation_space}, which are read from a replay buffer only in a "
                "Dict or a Box: collect with policy:PATH instead."
            )
        actions = unscale_actions(env.action_space, actions.reshape(-1, *env.action_space.shape))
        end = np.arange(len(rewards)) == len(rewards) - 1
        episodes.append(CollectedEpisode(observations, actions, rewards, end & terminated, end & (not terminated)))
    return episodes
