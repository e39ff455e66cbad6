"""A replay buffer that yields sequences."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pwm.common.memory import explain_out_of_memory
from sb3_pwm.common.observations import map_observations
from sb3_pwm.common.version import FILE_FORMAT, check_file_format
from sb3_pwm.data.types import Episode, SequenceBatch


def _cut_off(dones: np.ndarray, timeouts: np.ndarray, steps: Any) -> None:
    """End the episodes that go on after those steps as a time limit would; others have their own end already."""
    timeouts[steps] = np.maximum(timeouts[steps], 1.0 - dones[steps])
    dones[steps] = 1.0


class SequenceReplayBuffer(ReplayBuffer):
    """
    SB3's replay buffer with :meth:`sample_sequences`, and storage that is allocated by the first transition.

    A model that is loaded to be evaluated so costs no replay memory. Where the sampled tensors go to a GPU, a copy of
    the transitions can lie there too, so that sampling gathers rows instead of moving batches over the bus.

    :param buffer_size: Maximum number of transitions over all environments.
    :param observation_space: Observation space; of a ``Dict`` each entry is stored in an array of its own.
    :param action_space: Action space.
    :param device: Device of the sampled tensors.
    :param n_envs: Number of parallel environments.
    :param optimize_memory_usage: Whether an observation is stored once, and not again as the one before's next: half
        the memory. Unlike with SB3's, each episode's last observation is kept beside them (the dynamics is trained on
        it), and time limits are still told from terminations. Once the buffer is full its oldest transition, whose
        observation has been overwritten, is no longer sampled.
    :param handle_timeout_termination: Whether a truncation at a time limit is told from a termination; if not, every
        end of an episode counts as one.
    :param storage: ``"host"``; ``"device"``: a float32 copy of the transitions lies on ``device`` and is sampled from;
        ``"auto"``: that, if ``device`` is a GPU, the copy takes at most a quarter of its free memory, the observations
        are a ``Box`` of floats and ``optimize_memory_usage`` does not ask for less memory.
    :raises ValueError: If ``storage`` is none of the three, or is ``"device"`` where ``"auto"`` would not consider it.
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
        if storage not in ("auto", "host", "device"):
            raise ValueError(f'storage must be "auto", "host" or "device", got {storage!r}.')
        floats = isinstance(observation_space, spaces.Box) and np.issubdtype(observation_space.dtype, np.floating)
        if storage == "device" and not floats:
            raise ValueError(
                f'storage="device" keeps observations as float32, not {observation_space}: use storage="host".'
            )
        if storage == "device" and optimize_memory_usage:
            raise ValueError('storage="device" stores every observation twice: leave optimize_memory_usage out.')
        # The arrays of ReplayBuffer come later, see _allocate().
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.allocated = False
        self.has_terminations = False
        """Whether the buffer was ever given an episode that terminated, wherever it came from"""
        self.storage = storage if floats and not optimize_memory_usage else "host"
        # With optimize_memory_usage, the last observations of the episodes that ended, by row and environment
        self._last_observations: dict[tuple[int, int], Any] = {}
        # (buffer_size, n_envs, row) on the device: observation, next observation, action, reward, done, timeout
        self._rows: th.Tensor | None = None
        self._on_device: bool | None = None
        self._warn_of_memory()

    @property
    def _spaces(self) -> Any:
        """Of the observation, or of each of its entries."""
        space = self.observation_space
        return dict(space.spaces) if isinstance(space, spaces.Dict) else space

    def _warn_of_memory(self) -> None:
        observation_bytes: list[int] = []
        map_observations(
            lambda space, shape: observation_bytes.append(int(np.prod(shape)) * np.dtype(space.dtype).itemsize),
            self._spaces,
            self.obs_shape,
        )
        per_step = sum(observation_bytes) * (1 if self.optimize_memory_usage else 2) + 4 * (self.action_dim + 3)
        needed = per_step * self.buffer_size * self.n_envs
        available = psutil.virtual_memory().available
        if needed > available:
            warnings.warn(
                f"A full replay buffer of {self.buffer_size * self.n_envs} transitions takes {needed / 1e9:.2f} GB, "
                f"and {available / 1e9:.2f} GB of memory are available: lower buffer_size"
                + ("." if self.optimize_memory_usage else ", or set optimize_memory_usage=True.")
            )

    def _allocate(self) -> None:
        steps = self.buffer_size * self.n_envs
        advice = f"Lower buffer_size (now {steps})."
        with explain_out_of_memory(f"a replay buffer of {steps} transitions of {self.obs_shape}", advice):
            rows = (self.buffer_size, self.n_envs)
            # With one more row than there are steps, "the next observation" is a view of the same memory, a row later.
            n_stored = self.buffer_size + (1 if self.optimize_memory_usage else 0)

            def observation_array(space: spaces.Space, shape: tuple[int, ...]) -> np.ndarray:
                return np.zeros((n_stored, self.n_envs, *shape), dtype=space.dtype)

            self.observations = map_observations(observation_array, self._spaces, self.obs_shape)
            if self.optimize_memory_usage:
                self._view(self.observations)
            else:
                self.next_observations = map_observations(observation_array, self._spaces, self.obs_shape)
            action_dtype = self._maybe_cast_dtype(self.action_space.dtype)
            self.actions = np.zeros((*rows, self.action_dim), dtype=action_dtype)
            self.rewards, self.dones, self.timeouts = (np.zeros(rows, dtype=np.float32) for _ in range(3))
        self.allocated = True

    def _view(self, stored: Any) -> None:
        """:param stored: Observations that are each stored once, ``(buffer_size + 1, n_envs, *)``."""
        self._stored = stored
        self.observations = map_observations(lambda array: array[:-1], stored)
        self.next_observations = map_observations(lambda array: array[1:], stored)

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
        state = {**self.__dict__, "_rows": None, "_on_device": None, "file_format": FILE_FORMAT}
        if "_stored" in state:  # two views of one array would be written, and read, as two arrays
            del state["observations"], state["next_observations"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        check_file_format("The file", "replay buffer", state.get("file_format", 1))
        self.__dict__.update(state)
        if "_stored" in state:
            self._view(self._stored)

    def add(  # type: ignore[override]
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        next_obs: np.ndarray | dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        Store one transition of every environment, as :meth:`ReplayBuffer.add` does.

        :param obs: Observations ``(n_envs, *)``.
        :param next_obs: Those that the actions led to; an episode's last one, not the next episode's first.
        :param action: Actions ``(n_envs, *)``, scaled to [-1, 1].
        :param reward: ``(n_envs,)``.
        :param done: ``(n_envs,)``, whether the step ended the episode.
        :param infos: One dictionary each; ``TimeLimit.truncated`` tells a truncation.
        """
        if not self.allocated:
            self._allocate()
        row = self.pos

        def put(array: np.ndarray, values: np.ndarray) -> None:
            values = np.asarray(values)
            # Those of a Discrete space have no axis of their own. Nothing else is reshaped: pixels would change places.
            array[row] = values[..., None] if values.ndim == 1 and array.shape[2:] == (1,) else values

        map_observations(put, self.observations, obs)
        map_observations(put, self.next_observations, next_obs)
        self.actions[row] = np.reshape(action, (self.n_envs, self.action_dim))
        self.rewards[row] = reward
        self.dones[row] = done
        if self.handle_timeout_termination:
            self.timeouts[row] = np.reshape([info.get("TimeLimit.truncated", False) for info in infos], self.n_envs)
        else:
            self.timeouts[row] = 0.0
        self.has_terminations = self.has_terminations or bool((self.dones[row] > self.timeouts[row]).any())
        self._keep_last_observations(row)
        if self._rows is not None:
            self._send_row(row)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def _send_row(self, row: int) -> None:
        steps = slice(row, row + 1)
        self._device_rows()[steps] = self._host_rows(steps).to(self.device, non_blocking=True)

    def _keep_last_observations(self, row: int) -> None:
        """Put the last observations of the episodes that ended in a row beside: the next episode's first is to come."""
        if not self.optimize_memory_usage:
            return
        for env in range(self.n_envs):
            self._last_observations.pop((row, env), None)
            if self.dones[row, env]:
                last = map_observations(lambda array, env=env: array[row, env].copy(), self.next_observations)
                self._last_observations[row, env] = last

    def truncate_episodes(self) -> None:
        """Say that what is added next does not follow from what was added last, since the environments were reset."""
        if self.size() == 0:
            return
        row = (self.pos - 1) % self.buffer_size
        if self.dones[row].all():
            return
        _cut_off(self.dones, self.timeouts, row)
        self._keep_last_observations(row)
        if self._rows is not None:
            self._send_row(row)

    def add_episodes(self, episodes: Sequence[Episode]) -> None:
        """
        Store whole episodes, one after the other; over several environments' columns they are spread evenly.

        :param episodes: The episodes, actions scaled to [-1, 1].
        :raises ValueError: If their shapes are not the buffer's, or there are more steps than it has room for.
        """
        if isinstance(self.obs_shape, dict):
            raise ValueError(
                f"Data sets hold flat observations, the replay buffer's have the entries {', '.join(self.obs_shape)}: "
                "wrap the environment in gymnasium.wrappers.FlattenObservation."
            )
        ours = (int(np.prod(self.obs_shape)), self.action_dim)
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
        self.truncate_episodes()
        dones, timeouts = np.zeros(n_steps, np.float32), np.zeros(n_steps, np.float32)
        last = np.cumsum([len(episode.rewards) for episode in episodes]) - 1
        dones[last] = 1.0
        timeouts[last] = [not episode.terminated for episode in episodes]
        self._add_steps(
            {
                "observations": np.concatenate([episode.observations[:-1] for episode in episodes]),
                "next_observations": np.concatenate([episode.observations[1:] for episode in episodes]),
                "actions": np.concatenate([episode.actions for episode in episodes]),
                "rewards": np.concatenate([episode.rewards for episode in episodes]),
                "dones": dones,
                "timeouts": timeouts,
            }
        )

    def _add_steps(self, steps: dict[str, Any]) -> None:
        """
        Store steps that follow one another, spread evenly over the environments' columns.

        :param steps: For each of the arrays, by name, ``(n_steps, *)``; there is room for them.
        """
        n_rows = len(steps["dones"]) // self.n_envs
        # A column ends where the next one begins, be it within an episode: that one is cut off there.
        ends = np.arange(1, self.n_envs + 1) * n_rows - 1
        _cut_off(steps["dones"], steps["timeouts"], ends)
        rows = slice(self.pos, self.pos + n_rows)

        def put(array: np.ndarray, values: np.ndarray) -> None:
            columns = values[: n_rows * self.n_envs].reshape(self.n_envs, n_rows, *values.shape[1:])
            array[rows] = np.moveaxis(columns, 0, 1).reshape(array[rows].shape)

        for name in ("actions", "rewards", "dones", "timeouts", "next_observations"):
            map_observations(put, getattr(self, name), steps[name])
        if self.optimize_memory_usage:
            for row in range(rows.start, rows.stop):
                self._keep_last_observations(row)
        # Not before: they may lie where an episode's last observation has just been.
        map_observations(put, self.observations, steps["observations"])
        self.has_terminations = self.has_terminations or bool((self.dones[rows] > self.timeouts[rows]).any())
        self.full = self.full or rows.stop == self.buffer_size
        self.pos = rows.stop % self.buffer_size
        self._rows = None  # the device's copy is made anew when it is needed

    def resize_n_envs(self, n_envs: int) -> "SequenceReplayBuffer":
        """
        :param n_envs: Another number of environments.
        :return: A buffer for so many, with the same steps; episodes are cut off where a column begins or ends.
        """
        other = copy.copy(self)
        other.n_envs, other.buffer_size = n_envs, max(self.buffer_size * self.n_envs // n_envs, 1)
        other.pos, other.full, other.allocated, other._last_observations = 0, False, False, {}
        other._rows = None
        oldest, n_rows = self.sampled_rows()
        if n_rows == 0:
            return other
        rows, envs = np.broadcast_arrays(
            (oldest + np.arange(n_rows)) % self.buffer_size, np.arange(self.n_envs)[:, None]
        )

        def in_a_row(array: np.ndarray) -> np.ndarray:  # (n_envs, n_rows, *) to (n_envs * n_rows, *)
            return array.reshape(-1, *array.shape[2:])

        steps = {
            name: in_a_row(getattr(self, name)[rows, envs]) for name in ("actions", "rewards", "dones", "timeouts")
        }
        newest = np.arange(1, self.n_envs + 1) * n_rows - 1
        _cut_off(steps["dones"], steps["timeouts"], newest)
        steps["observations"] = map_observations(lambda array: in_a_row(array[rows, envs]), self.observations)
        steps["next_observations"] = map_observations(in_a_row, self.next_observations_of(rows, envs))
        other._allocate()
        other._add_steps(steps)
        return other

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """Single transitions, in the form that :meth:`ReplayBuffer.sample` gives them."""
        if not self.allocated:
            raise ValueError("The replay buffer is empty: add transitions before sampling.")
        batch = self.sample_sequences(batch_size, 1, env)
        samples = DictReplayBufferSamples if isinstance(self.obs_shape, dict) else ReplayBufferSamples
        return samples(
            observations=map_observations(lambda values: values[0], batch.observations),
            actions=batch.actions[0],
            next_observations=map_observations(lambda values: values[1], batch.observations),
            dones=batch.terminations[0].unsqueeze(-1),
            rewards=batch.rewards[0].unsqueeze(-1),
        )

    def sampled_rows(self) -> tuple[int, int]:
        """The oldest row that can be sampled, and how many there are from it on."""
        if not self.full:
            return 0, self.pos
        if not self.optimize_memory_usage:
            return self.pos, self.buffer_size
        # The newest step's next observation lies where the oldest step's observation was.
        return self.pos + 1, self.buffer_size - 1

    def can_sample(self, horizon: int) -> bool:
        """:param horizon: Number of steps. :return: Whether there are sequences of so many."""
        return self.sampled_rows()[1] >= horizon

    def sample_sequences(self, batch_size: int, horizon: int, env: VecNormalize | None = None) -> SequenceBatch:
        """
        Sequences of consecutive steps of one environment each.

        Starts are uniform over the steps that have ``horizon - 1`` younger ones after them, so that no sequence crosses
        the write position. After an episode's end the mask is zero; the start itself is always a real step.

        :param batch_size: Number of sequences, B.
        :param horizon: Number of steps in a sequence, H.
        :param env: VecNormalize whose statistics normalize observations and rewards, if any.
        :return: The sequences, on the buffer's device.
        :raises ValueError: If the buffer holds fewer than ``horizon`` steps per environment.
        """
        oldest, size = self.sampled_rows()
        if size < horizon:
            raise ValueError(
                f"The replay buffer holds {size} steps per environment, fewer than horizon={horizon}: "
                "collect more steps first (learning_starts) or lower the horizon."
            )
        starts = np.random.randint(0, size - horizon + 1, size=batch_size)
        envs = np.random.randint(0, self.n_envs, size=batch_size)
        steps = (oldest + starts + np.arange(horizon)[:, None]) % self.buffer_size  # (H, B)

        gather = self._gather_on_device if self._wants_rows() else self._gather_on_host
        observations, actions, rewards, dones, timeouts = gather(steps, envs, env)
        # A step counts while no earlier step of the sequence ended the episode.
        mask = th.cat([th.ones_like(dones[:1]), th.cumprod(1.0 - dones[:-1], dim=0)])
        return SequenceBatch(observations, actions, rewards, dones * (1.0 - timeouts), mask)

    def _gather_on_host(self, steps: np.ndarray, envs: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        """Observations ``(H + 1, B, *)``, actions, rewards, dones, timeouts ``(H, B, *)``, from the host's arrays."""
        first = map_observations(lambda array: array[steps[:1], envs], self.observations)
        after = self.next_observations_of(steps, np.broadcast_to(envs, steps.shape))
        observations = map_observations(lambda *parts: np.concatenate(parts), first, after)
        rewards = self._normalize_reward(self.rewards[steps, envs], env)
        arrays = (self.actions[steps, envs], rewards, self.dones[steps, envs], self.timeouts[steps, envs])
        normalized = self._normalize_obs(observations, env)
        return map_observations(self._from_host, normalized), *(self._from_host(array) for array in arrays)

    def _from_host(self, array: np.ndarray) -> th.Tensor:
        """:param array: A fresh one (fancy indexing copies). :return: The same on the device."""
        if self.device.type != "cuda":
            return self.to_torch(array, copy=False)
        # From page-locked memory the copy runs beside what the device and the host do meanwhile.
        return th.from_numpy(array).pin_memory().to(self.device, non_blocking=True)

    def next_observations_of(self, rows: np.ndarray, envs: np.ndarray) -> Any:
        """:param rows: Any shape. :param envs: The same shape. :return: What those steps led to, with that shape."""
        observations = map_observations(lambda array: array[rows, envs], self.next_observations)
        if self.optimize_memory_usage:
            for where in zip(*np.nonzero(self.dones[rows, envs]), strict=True):
                last = self._last_observations[int(rows[where]), int(envs[where])]
                map_observations(lambda array, value, at=where: array.__setitem__(at, value), observations, last)
        return observations

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
