"""A replay buffer that yields sequences."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pwm.data.batch import SequenceBatch


class SequenceReplayBuffer(ReplayBuffer):
    """
    SB3's replay buffer with :meth:`sample_sequences`, and storage that is allocated by the first transition.

    A model that is loaded to be evaluated so costs no replay memory.

    :param buffer_size: Maximum number of transitions over all environments.
    :param observation_space: Observation space; a ``Box``.
    :param action_space: Action space.
    :param device: Device of the sampled tensors.
    :param n_envs: Number of parallel environments.
    :param optimize_memory_usage: Must be False: with observations stored once, an episode's last observation is lost,
        and the dynamics is trained on it.
    :param handle_timeout_termination: Must be True: a truncation at a time limit is not a termination.
    :raises ValueError: If one of the last two arguments has the other value.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ):
        if optimize_memory_usage:
            raise ValueError(
                "SequenceReplayBuffer keeps every episode's last observation: set optimize_memory_usage=False."
            )
        if not handle_timeout_termination:
            raise ValueError(
                "SequenceReplayBuffer tells truncation from termination: set handle_timeout_termination=True."
            )
        # The arrays of ReplayBuffer come later, see _allocate().
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.allocated = False

    def _allocate(self) -> None:
        ReplayBuffer.__init__(
            self, self.buffer_size * self.n_envs, self.observation_space, self.action_space, self.device, self.n_envs
        )
        self.allocated = True

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of every environment, as :meth:`ReplayBuffer.add` does."""
        if not self.allocated:
            self._allocate()
        super().add(obs, next_obs, action, reward, done, infos)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Single transitions, as :meth:`ReplayBuffer.sample` gives them."""
        if not self.allocated:
            raise ValueError("The replay buffer is empty: add transitions before sampling.")
        return super().sample(batch_size, env)

    def sample_sequences(self, batch_size: int, horizon: int, env: VecNormalize | None = None) -> SequenceBatch:
        """
        Sequences of consecutive steps of one environment each.

        Starts are uniform over the steps that have ``horizon - 1`` younger ones after them, so that no sequence crosses
        the write position. After an episode's end the mask is zero; the start itself is always a real step.

        :param batch_size: Number of sequences, B.
        :param horizon: Number of steps in a sequence, H.
        :param env: VecNormalize whose statistics normalise observations and rewards, if any.
        :return: The sequences, on the buffer's device.
        :raises ValueError: If the buffer holds fewer than ``horizon`` steps per environment.
        """
        size = self.size()
        if size < horizon:
            raise ValueError(
                f"The replay buffer holds {size} steps per environment, fewer than horizon={horizon}: "
                "collect more steps first (learning_starts) or lower the horizon."
            )
        oldest = self.pos if self.full else 0
        starts = np.random.randint(0, size - horizon + 1, size=batch_size)
        envs = np.random.randint(0, self.n_envs, size=batch_size)
        steps = (oldest + starts + np.arange(horizon)[:, None]) % self.buffer_size  # (H, B)

        next_observations = self.next_observations[steps, envs]  # (H, B, *)
        observations = np.concatenate([self.observations[steps[:1], envs], next_observations])
        dones = self.dones[steps, envs]
        terminations = dones * (1.0 - self.timeouts[steps, envs])
        # A step counts while no earlier step of the sequence ended the episode.
        mask = np.ones_like(dones)
        mask[1:] = np.cumprod(1.0 - dones[:-1], axis=0)
        rewards = self._normalize_reward(self.rewards[steps, envs], env)
        actions = self.actions[steps, envs]
        normalised = self._normalize_obs(observations, env)
        assert isinstance(normalised, np.ndarray)
        return SequenceBatch(
            # Fresh arrays all of them (fancy indexing copies), so the tensors may share their memory.
            self.to_torch(normalised, copy=False),
            self.to_torch(actions, copy=False),
            self.to_torch(rewards, copy=False),
            self.to_torch(terminations, copy=False),
            self.to_torch(mask, copy=False),
        )
