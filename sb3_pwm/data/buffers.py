"""A replay buffer that yields sequences."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pwm.common.memory import explain_out_of_memory
from sb3_pwm.data.batch import SequenceBatch
from sb3_pwm.data.dataset import Episode


class SequenceReplayBuffer(ReplayBuffer):
    """
    SB3's replay buffer with :meth:`sample_sequences`, and storage that is allocated by the first transition.

    A model that is loaded to be evaluated so costs no replay memory. Where the sampled tensors go to a GPU, a copy of
    the transitions can lie there too, so that sampling gathers rows instead of moving batches over the bus.

    :param buffer_size: Maximum number of transitions over all environments.
    :param observation_space: Observation space; a ``Box``.
    :param action_space: Action space.
    :param device: Device of the sampled tensors.
    :param n_envs: Number of parallel environments.
    :param optimize_memory_usage: Must be False: with observations stored once, an episode's last observation is lost,
        and the dynamics is trained on it.
    :param handle_timeout_termination: Must be True: a truncation at a time limit is not a termination.
    :param storage: ``"host"``; ``"device"``: a float32 copy of the transitions lies on ``device`` and is sampled from;
        ``"auto"``: that, if ``device`` is a GPU and the copy takes at most a quarter of its free memory.
    :raises ValueError: If one of the two arguments before has the other value, or ``storage`` is none of the three, or
        it is ``"device"`` and the observations are not floats.
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
        storage: str = "auto",
    ):
        if optimize_memory_usage:
            raise ValueError(
                "SequenceReplayBuffer keeps every episode's last observation: set optimize_memory_usage=False."
            )
        if not handle_timeout_termination:
            raise ValueError(
                "SequenceReplayBuffer tells truncation from termination: set handle_timeout_termination=True."
            )
        if storage not in ("auto", "host", "device"):
            raise ValueError(f'storage must be "auto", "host" or "device", got {storage!r}.')
        floats = observation_space.dtype is not None and np.issubdtype(observation_space.dtype, np.floating)
        if storage == "device" and not floats:
            raise ValueError(
                f'storage="device" keeps observations as float32, not {observation_space.dtype}: use storage="host".'
            )
        # The arrays of ReplayBuffer come later, see _allocate().
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.allocated = False
        self.storage = storage if floats else "host"
        # (buffer_size, n_envs, row) on the device: observation, next observation, action, reward, done, timeout
        self._rows: th.Tensor | None = None
        self._on_device: bool | None = None

    def _allocate(self) -> None:
        steps = self.buffer_size * self.n_envs
        advice = f"Lower buffer_size (now {steps})."
        with explain_out_of_memory(f"a replay buffer of {steps} transitions of {self.obs_shape}", advice):
            ReplayBuffer.__init__(self, steps, self.observation_space, self.action_space, self.device, self.n_envs)
        self.allocated = True

    def _wants_rows(self) -> bool:
        """Whether the transitions are to lie on the device too; ``"auto"`` is settled once."""
        if self._on_device is None:
            self._on_device = self.storage == "device"
            if self.storage == "auto" and self.device.type == "cuda":
                free, _ = th.cuda.mem_get_info(self.device)
                self._on_device = 4 * self.buffer_size * self.n_envs * self._row_size <= free / 4
        return self._on_device

    @property
    def _row_size(self) -> int:
        return 2 * int(np.prod(self.obs_shape)) + self.action_dim + 3  # type: ignore[arg-type]

    def _host_rows(self, steps: slice) -> th.Tensor:
        """Those steps of the host's arrays as rows, see :attr:`_rows`."""
        parts = (self.observations, self.next_observations, self.actions, self.rewards, self.dones, self.timeouts)
        n_steps = steps.stop - steps.start
        flat = [part[steps].reshape(n_steps, self.n_envs, -1).astype(np.float32) for part in parts]
        return th.from_numpy(np.concatenate(flat, axis=-1))

    def _device_rows(self) -> th.Tensor:
        """The rows on the device, which are made at their first use: after the first transition or after loading."""
        if self._rows is None:
            advice = f'Lower buffer_size (now {self.buffer_size * self.n_envs}), or set storage="host".'
            with explain_out_of_memory(f"a replay buffer on {self.device}", advice):
                self._rows = th.empty(self.buffer_size, self.n_envs, self._row_size, device=self.device)
                for first in range(0, self.size(), 10_000):
                    steps = slice(first, min(first + 10_000, self.size()))
                    self._rows[steps] = self._host_rows(steps).to(self.device)
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        # The host's arrays say it all, and where it is loaded there may be another device.
        return {**self.__dict__, "_rows": None, "_on_device": None}

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
        steps = slice(self.pos, self.pos + 1)
        super().add(obs, next_obs, action, reward, done, infos)
        if self._wants_rows():
            self._device_rows()[steps] = self._host_rows(steps).to(self.device, non_blocking=True)

    def add_episodes(self, episodes: Sequence[Episode]) -> None:
        """
        Store whole episodes, one after the other; over several environments' columns they are spread evenly.

        :param episodes: The episodes, actions scaled to [-1, 1].
        :raises ValueError: If their shapes are not the buffer's, or there are more steps than it has room for.
        """
        ours = (int(np.prod(self.obs_shape)), self.action_dim)  # type: ignore[arg-type]
        for episode in episodes:
            theirs = (episode.observations.shape[1], episode.actions.shape[1])
            if theirs != ours:
                raise ValueError(
                    f"The data has observations of {theirs[0]} and actions of {theirs[1]} numbers, the environment of "
                    f"{ours[0]} and {ours[1]}."
                )
        n_steps = sum(len(episode.rewards) for episode in episodes)
        room = (self.buffer_size - self.size()) * self.n_envs
        if n_steps > room:
            raise ValueError(f"The data has {n_steps} steps, the replay buffer room for {room}: raise buffer_size.")
        if not self.allocated:
            self._allocate()
        dones, timeouts = np.zeros(n_steps, np.float32), np.zeros(n_steps, np.float32)
        last = np.cumsum([len(episode.rewards) for episode in episodes]) - 1
        dones[last] = 1.0
        timeouts[last] = [not episode.terminated for episode in episodes]
        n_rows = n_steps // self.n_envs
        # A column ends where the next one begins, be it within an episode: that one is cut off there.
        column_ends = np.arange(1, self.n_envs + 1) * n_rows - 1
        timeouts[column_ends] = np.maximum(timeouts[column_ends], 1.0 - dones[column_ends])
        dones[column_ends] = 1.0
        stored = {
            "observations": np.concatenate([episode.observations[:-1] for episode in episodes]),
            "next_observations": np.concatenate([episode.observations[1:] for episode in episodes]),
            "actions": np.concatenate([episode.actions for episode in episodes]),
            "rewards": np.concatenate([episode.rewards for episode in episodes]),
            "dones": dones,
            "timeouts": timeouts,
        }
        rows = slice(self.pos, self.pos + n_rows)
        for name, values in stored.items():
            array = getattr(self, name)
            columns = values[: n_rows * self.n_envs].reshape(self.n_envs, n_rows, *values.shape[1:])
            array[rows] = np.moveaxis(columns, 0, 1).reshape(array[rows].shape)
        self.full = self.full or self.pos + n_rows == self.buffer_size
        self.pos = (self.pos + n_rows) % self.buffer_size
        self._rows = None  # the device's copy is made anew when it is needed

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

        gather = self._gather_on_device if self._wants_rows() else self._gather_on_host
        observations, actions, rewards, dones, timeouts = gather(steps, envs, env)
        # A step counts while no earlier step of the sequence ended the episode.
        mask = th.cat([th.ones_like(dones[:1]), th.cumprod(1.0 - dones[:-1], dim=0)])
        return SequenceBatch(observations, actions, rewards, dones * (1.0 - timeouts), mask)

    def _gather_on_host(self, steps: np.ndarray, envs: np.ndarray, env: VecNormalize | None) -> tuple[th.Tensor, ...]:
        """Observations ``(H + 1, B, *)``, actions, rewards, dones, timeouts ``(H, B, *)``, from the host's arrays."""
        observations = np.concatenate([self.observations[steps[:1], envs], self.next_observations[steps, envs]])
        normalised = self._normalize_obs(observations, env)
        assert isinstance(normalised, np.ndarray)
        rewards = self._normalize_reward(self.rewards[steps, envs], env)
        arrays = (normalised, self.actions[steps, envs], rewards, self.dones[steps, envs], self.timeouts[steps, envs])
        if self.device.type != "cuda":
            # Fresh arrays all of them (fancy indexing copies), so the tensors may share their memory.
            return tuple(self.to_torch(array, copy=False) for array in arrays)
        # From page-locked memory the copy runs beside what the device and the host do meanwhile.
        return tuple(th.from_numpy(array).pin_memory().to(self.device, non_blocking=True) for array in arrays)

    def _gather_on_device(self, steps: np.ndarray, envs: np.ndarray, env: VecNormalize | None) -> tuple[th.Tensor, ...]:
        """The same from the device's rows; VecNormalize's statistics are applied there."""
        rows = self._device_rows()[self._send(steps), self._send(envs)]  # (H, B, row)
        size = int(np.prod(self.obs_shape))  # type: ignore[arg-type]
        before, after, actions, rest = rows.split([size, size, self.action_dim, 3], dim=-1)
        observations = th.cat([before[:1], after]).unflatten(-1, self.obs_shape)  # type: ignore[arg-type]
        rewards, dones, timeouts = rest.unbind(-1)
        if env is not None and env.norm_obs:
            assert isinstance(env.obs_rms, RunningMeanStd)
            mean, var = (self._send(value.astype(np.float32)) for value in (env.obs_rms.mean, env.obs_rms.var))
            observations = ((observations - mean) / th.sqrt(var + env.epsilon)).clamp(-env.clip_obs, env.clip_obs)
        if env is not None and env.norm_reward:
            scale = float(np.sqrt(env.ret_rms.var + env.epsilon))
            rewards = (rewards / scale).clamp(-env.clip_reward, env.clip_reward)
        return observations, actions, rewards, dones, timeouts

    def _send(self, values: np.ndarray) -> th.Tensor:
        return th.from_numpy(values).to(self.device, non_blocking=True)
