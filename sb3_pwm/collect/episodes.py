"""Collected episodes: stepped in an environment, or taken from a replay buffer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sb3_pwm.collect.policies import Policy
from sb3_pwm.data.cleaning import clean_episode
from sb3_pwm.data.readers.replay_buffer import read_replay_buffer, replay_buffer_episodes
from sb3_pwm.tasks import env_id


class CollectedEpisode(NamedTuple):
    """One episode of T steps, as Minari stores it."""

    observations: NDArray[np.float32]
    """Observations ``(T + 1, O)``. The last one is the observation after the last step."""
    actions: NDArray[np.float32]
    """Actions ``(T, A)``"""
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
    env: gymnasium.Env[Any, Any], policy: Policy, noise: float, seed: np.random.SeedSequence
) -> CollectedEpisode:
    """
    Run an episode in an environment.

    :param env: The environment. Its episodes must be limited.
    :param policy: The policy.
    :param noise: Standard deviation of Gaussian noise on the actions.
    :param seed: Seed of the start state, the random actions and the noise.
    :return: The episode.
    """
    start, actions_seed, noise_seed = (int(word) for word in seed.generate_state(3))
    env.action_space.seed(actions_seed)
    rng = np.random.default_rng(noise_seed)
    observation, _ = env.reset(seed=start)
    observations, actions, rewards, terminations, truncations, successes = [observation], [], [], [], [], []
    ended = False
    while not ended:
        action = policy(observation)
        if noise > 0.0:
            action = action + np.float32(noise) * rng.standard_normal(action.shape, np.float32)
        action = np.clip(action, -1.0, 1.0)
        observation, reward, terminated, truncated, info = env.step(action)
        ended = terminated or truncated
        observations.append(observation)
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
    if run.isdigit() and trained in gymnasium.registry and trained != env_id(task):
        raise ValueError(f"{file} was filled by {trained}, not by {env_id(task)}.")
    buffer = read_replay_buffer(file)
    shapes = (buffer.observation_space.shape, buffer.action_space.shape)
    if shapes != (env.observation_space.shape, env.action_space.shape):
        raise ValueError(
            f"{file} holds observations {shapes[0]} and actions {shapes[1]}; "
            f"{task} has {env.observation_space.shape} and {env.action_space.shape}."
        )
    episodes = []
    for _, episode, where in replay_buffer_episodes(buffer, task, str(file)):
        observations, actions, rewards, terminated = clean_episode(episode, where)
        end = np.arange(len(rewards)) == len(rewards) - 1
        episodes.append(CollectedEpisode(observations, actions, rewards, end & terminated, end & (not terminated)))
    return episodes
