"""A replay buffer from which sequences of consecutive steps are sampled."""

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

from sb3_pwm.common.checks import check_choice
from sb3_pwm.common.memory import explain_out_of_memory
from sb3_pwm.common.observations import map_observations
from sb3_pwm.common.version import FILE_FORMAT, check_file_format
from sb3_pwm.data.cleaning import clean_episode
from sb3_pwm.data.episode_table import EpisodeTable
from sb3_pwm.data.outcomes import OutcomeTable
from sb3_pwm.data.types import UNIFORM, Episode, Outcome, SequenceBatch, SequenceSampling

OUTCOMES_EVERY = 100
"""Number of new steps per environment after which what followed the steps is computed again"""


def _truncate(dones: np.ndarray, timeouts: np.ndarray, steps: Any) -> None:
    """Mark steps as the last ones of truncated episodes, in place. Steps that end an episode already are unchanged."""
    timeouts[steps] = np.maximum(timeouts[steps], 1.0 - dones[steps])
    dones[steps] = 1.0


def check_stored_actions(actions: np.ndarray | None, space: spaces.Space, where: str = "The replay buffer") -> None:
    """
    Check that the scaled actions of a buffer were not cut to -1, 0 and 1, as SB3 does if the space holds integers.

    :param actions: Actions of the buffer; None if it holds none.
    :param space: Action space.
    :param where: File or name of the buffer, for the message.
    :raises ValueError: If they were.
    """
    if isinstance(space, spaces.Box) and actions is not None and not np.issubdtype(actions.dtype, np.floating):
        raise ValueError(
            f"{where} has lost its actions: those of {space}, scaled to [-1, 1], were stored as {actions.dtype}; "
            "collect the data with PWM, or with a space of floats."
        )


class SequenceReplayBuffer(ReplayBuffer):
    """
    SB3's replay buffer, which can sample sequences of consecutive steps too, see :meth:`sample_sequences`.

    Memory is allocated when the first transition is added, so that a model that is loaded for evaluation needs none.

    If sampled tensors go to a GPU, the GPU can keep a copy of the transitions. Sampling then gathers rows on the GPU
    and copies no batches.

    :param buffer_size: Maximum number of transitions over all environments.
    :param observation_space: Observation space. Each entry of a ``Dict`` is stored in its own array.
    :param action_space: Action space.
    :param device: Device of the sampled tensors.
    :param n_envs: Number of environments.
    :param optimize_memory_usage: Whether each observation is stored once, in half of the memory, and not a second time
        as the next observation of the step before. Unlike SB3's buffer, this one also keeps the last observation of
        each episode, and distinguishes truncations from terminations. When the buffer is full, its oldest transition is
        not sampled, because its observation has been overwritten.
    :param handle_timeout_termination: Whether truncations are distinguished from terminations. If not, every end of an
        episode counts as a termination.
    :param storage: Memory that batches are gathered from. ``"host"``: the host's arrays. ``"device"``: a float32 copy
        of the transitions on ``device``. ``"auto"``: the copy, if ``device`` is a GPU, the copy takes at most a quarter
        of its free memory, observations are a ``Box`` of floats, and ``optimize_memory_usage`` is False.
    :raises ValueError: If ``storage`` is another value, or is ``"device"`` although observations are not a ``Box`` of
        floats or ``optimize_memory_usage`` is True.
    """

    has_terminations: bool
    """Whether an episode that terminated was ever added. If not, a model needs no termination head."""
    n_new_rows: int
    """Number of rows that :meth:`add` has added since episodes of data were, see :class:`SequenceSampling`"""

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
        check_choice("storage", storage, ("auto", "host", "device"))
        floats = isinstance(observation_space, spaces.Box) and np.issubdtype(observation_space.dtype, np.floating)
        if storage == "device" and not floats:
            raise ValueError(
                f'storage="device" keeps observations as float32, not {observation_space}: use storage="host".'
            )
        if storage == "device" and optimize_memory_usage:
            raise ValueError('storage="device" stores every observation twice: leave optimize_memory_usage out.')
        # Not ReplayBuffer.__init__, which allocates the arrays: _allocate() does that.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.allocated = False
        self.has_terminations = False
        self.n_new_rows = 0
        self.storage = storage if floats and not optimize_memory_usage else "host"
        # Last observations of episodes, by row and environment. Empty without optimize_memory_usage.
        self._last_observations: dict[tuple[int, int], Any] = {}
        # (buffer_size, n_envs, row) on the device: observation, next observation, action, reward, done, timeout
        self._rows: th.Tensor | None = None
        self._on_device: bool | None = None
        self._episode_table: EpisodeTable | None = None  # None until it is needed
        self._outcome_table: OutcomeTable | None = None  # likewise
        self._warn_of_memory()

    @property
    def _spaces(self) -> Any:
        """Observation space, or a dictionary of the spaces of its entries."""
        space = self.observation_space
        return dict(space.spaces) if isinstance(space, spaces.Dict) else space

    def _warn_of_memory(self) -> None:
        """Warn if a full buffer needs more memory than is available."""
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
        """:raises MemoryError: If there is not enough memory. The message says what to lower."""
        steps = self.buffer_size * self.n_envs
        advice = f"Lower buffer_size (now {steps})."
        with explain_out_of_memory(f"a replay buffer of {steps} transitions of {self.obs_shape}", advice):
            rows = (self.buffer_size, self.n_envs)
            # One more row than there are steps: next observations are a view of the same memory, one row later.
            n_stored = self.buffer_size + (1 if self.optimize_memory_usage else 0)

            def observation_array(space: spaces.Space, shape: tuple[int, ...]) -> np.ndarray:
                return np.zeros((n_stored, self.n_envs, *shape), dtype=space.dtype)

            self.observations = map_observations(observation_array, self._spaces, self.obs_shape)
            if self.optimize_memory_usage:
                self._view(self.observations)
            else:
                self.next_observations = map_observations(observation_array, self._spaces, self.obs_shape)
            # Scaled actions are no integers, whatever the dtype of the space.
            self.actions = np.zeros((*rows, self.action_dim), dtype=np.float32)
            self.rewards, self.dones, self.timeouts = (np.zeros(rows, dtype=np.float32) for _ in range(3))
        self.allocated = True

    def _view(self, stored: Any) -> None:
        """
        Make observations and next observations views of the same memory.

        :param stored: Observations ``(buffer_size + 1, n_envs, *)``, each stored once.
        """
        self._stored = stored
        self.observations = map_observations(lambda array: array[:-1], stored)
        self.next_observations = map_observations(lambda array: array[1:], stored)

    def _wants_rows(self) -> bool:
        """:return: Whether the device keeps a copy of the transitions. ``"auto"`` is decided at the first call."""
        if self._on_device is None:
            self._on_device = self.storage == "device"
            if self.storage == "auto" and self.device.type == "cuda":
                free, _ = th.cuda.mem_get_info(self.device)
                self._on_device = 4 * self.buffer_size * self.n_envs * self._row_size <= free / 4
        return self._on_device

    @property
    def _row_size(self) -> int:
        """Number of values in a row, see :attr:`_rows`."""
        return 2 * int(np.prod(self.obs_shape)) + self.action_dim + 3  # type: ignore[arg-type]

    def _host_rows(self, steps: slice) -> th.Tensor:
        """:return: Rows of these steps from the host's arrays, see :attr:`_rows`."""
        parts = (self.observations, self.next_observations, self.actions, self.rewards, self.dones, self.timeouts)
        n_steps = steps.stop - steps.start
        flat = [part[steps].reshape(n_steps, self.n_envs, -1).astype(np.float32) for part in parts]
        return th.from_numpy(np.concatenate(flat, axis=-1))

    def _device_rows(self) -> th.Tensor:
        """:return: Rows on the device. They are copied from the host's arrays at the first call."""
        if self._rows is None:
            advice = f'Lower buffer_size (now {self.buffer_size * self.n_envs}), or set storage="host".'
            with explain_out_of_memory(f"a replay buffer on {self.device}", advice):
                self._rows = th.empty(self.buffer_size, self.n_envs, self._row_size, device=self.device)
                for first in range(0, self.size(), 10_000):
                    steps = slice(first, min(first + 10_000, self.size()))
                    self._rows[steps] = self._host_rows(steps).to(self.device)
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        # Without the device's copy: it holds nothing that the host's arrays lack, and the buffer may be loaded on a
        # machine with another device.
        state = {**self.__dict__, "_rows": None, "_on_device": None, "file_format": FILE_FORMAT}
        state["_episode_table"] = state["_outcome_table"] = None
        if "_stored" in state:  # the two views of one array would be written as two arrays
            del state["observations"], state["next_observations"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """
        :raises FileFormatError: If an older version of the package has pickled the buffer.
        :raises ValueError: If its actions were cut to integers.
        """
        check_file_format("The file", "replay buffer", state.get("file_format", 1))
        check_stored_actions(state.get("actions"), state["action_space"])
        self.__dict__.update({"n_new_rows": 0, **state})  # older files have no count
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
        Add one transition of every environment, as :meth:`ReplayBuffer.add` does.

        :param obs: Observations ``(n_envs, *)``.
        :param next_obs: Next observations ``(n_envs, *)``. At the end of an episode, it is the last observation of the
            episode, not the first one of the next episode.
        :param action: Actions ``(n_envs, *)``, scaled to [-1, 1].
        :param reward: Rewards ``(n_envs,)``.
        :param done: Whether the step ended the episode, ``(n_envs,)``.
        :param infos: Info dictionary of each environment. ``TimeLimit.truncated`` marks a truncation.
        """
        if not self.allocated:
            self._allocate()
        row = self.pos

        def put(array: np.ndarray, values: np.ndarray) -> None:
            values = np.asarray(values)
            # Observations of a Discrete space have no axis for their one number. Nothing else is reshaped, because a
            # wrong shape would put pixels into wrong places.
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
        self.n_new_rows = min(self.n_new_rows + 1, self.buffer_size)
        self._keep_last_observations(row)
        if self._rows is not None:
            self._send_row(row)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0
        if self._episode_table is not None:
            self._episode_table.add(self.dones[row], self.sampled_rows()[1])
        if self._outcome_table is not None:
            self._outcome_table.write(row)

    def _send_row(self, row: int) -> None:
        """Copy a row from the host's arrays to the device."""
        steps = slice(row, row + 1)
        self._device_rows()[steps] = self._host_rows(steps).to(self.device, non_blocking=True)

    def _keep_last_observations(self, row: int) -> None:
        """
        Keep the last observations of the episodes that end in a row, if observations are stored once.

        The first observations of the next episodes will overwrite them.
        """
        if not self.optimize_memory_usage:
            return
        for env in range(self.n_envs):
            self._last_observations.pop((row, env), None)
            if self.dones[row, env]:
                last = map_observations(lambda array, env=env: array[row, env].copy(), self.next_observations)
                self._last_observations[row, env] = last

    def truncate_episodes(self) -> None:
        """
        Truncate the episodes that have not ended.

        To be called when the environments were reset: the transitions that are added next start new episodes.
        """
        if self.size() == 0:
            return
        row = (self.pos - 1) % self.buffer_size
        if self.dones[row].all():
            return
        _truncate(self.dones, self.timeouts, row)
        self._episode_table = self._outcome_table = None
        self._keep_last_observations(row)
        if self._rows is not None:
            self._send_row(row)

    def add_episodes(self, episodes: Sequence[Episode]) -> None:
        """
        Add complete episodes.

        The steps are distributed evenly over the environments. An episode can be divided between two environments, and
        is truncated where it is divided. Up to ``n_envs - 1`` steps at the end do not fill a row and are left out.

        :param episodes: The episodes. Actions are scaled to [-1, 1].
        :raises ValueError: If the shapes do not fit the buffer, the buffer has no room for all steps, or an episode has
            a value that is not finite or an action that is not in [-1, 1].
        """
        if isinstance(self.obs_shape, dict):
            raise ValueError(
                "Data sets hold flat observations, and the observations of the replay buffer have the entries "
                f"{', '.join(self.obs_shape)}: wrap the environment in gymnasium.wrappers.FlattenObservation."
            )
        episodes = [clean_episode(episode, f"episode {number}") for number, episode in enumerate(episodes)]
        ours = (int(np.prod(self.obs_shape)), self.action_dim)
        for episode in episodes:
            theirs = (episode.observations.shape[1], episode.actions.shape[1])
            if theirs != ours:
                flat = isinstance(self.observation_space, spaces.Box)
                raise ValueError(
                    f"The data has observations of {theirs[0]} and actions of {theirs[1]} numbers, the environment of "
                    f"{ours[0]} and {ours[1]}"
                    + ("." if flat else ": if the data is one-hot, use gymnasium.wrappers.FlattenObservation.")
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
        Add consecutive steps, distributed evenly over the environments. The buffer must have room for them.

        :param steps: Values ``(n_steps, *)`` of each array of the buffer, by its name.
        """
        n_rows = len(steps["dones"]) // self.n_envs
        # The steps of an environment end where those of the next one start, which may be within an episode.
        ends = np.arange(1, self.n_envs + 1) * n_rows - 1
        _truncate(steps["dones"], steps["timeouts"], ends)
        rows = slice(self.pos, self.pos + n_rows)

        def put(array: np.ndarray, values: np.ndarray) -> None:
            columns = values[: n_rows * self.n_envs].reshape(self.n_envs, n_rows, *values.shape[1:])
            array[rows] = np.moveaxis(columns, 0, 1).reshape(array[rows].shape)

        for name in ("actions", "rewards", "dones", "timeouts", "next_observations"):
            map_observations(put, getattr(self, name), steps[name])
        if self.optimize_memory_usage:
            for row in range(rows.start, rows.stop):
                self._keep_last_observations(row)
        # Not earlier: observations may overwrite the last observations of episodes, if they are stored once.
        map_observations(put, self.observations, steps["observations"])
        self.has_terminations = self.has_terminations or bool((self.dones[rows] > self.timeouts[rows]).any())
        self.full = self.full or rows.stop == self.buffer_size
        self.pos = rows.stop % self.buffer_size
        self.n_new_rows = 0
        self._episode_table = self._outcome_table = None
        self._rows = None  # the next sample copies all rows to the device again

    def resize_n_envs(self, n_envs: int) -> "SequenceReplayBuffer":
        """
        Distribute the transitions over another number of environments.

        Episodes that are divided between two environments are truncated where they are divided.

        :param n_envs: New number of environments.
        :return: A new buffer with the same transitions. This buffer is unchanged.
        """
        other = copy.copy(self)
        other.n_envs, other.buffer_size = n_envs, max(self.buffer_size * self.n_envs // n_envs, 1)
        other.pos, other.full, other.allocated, other._last_observations = 0, False, False, {}
        other._rows, other._episode_table, other._outcome_table = None, None, None
        n_rows = self.sampled_rows()[1]
        if n_rows == 0:
            return other
        rows, envs = np.broadcast_arrays(self._rows_in_order(), np.arange(self.n_envs)[:, None])

        def in_a_row(array: np.ndarray) -> np.ndarray:  # (n_envs, n_rows, *) to (n_envs * n_rows, *)
            return array.reshape(-1, *array.shape[2:])

        steps = {
            name: in_a_row(getattr(self, name)[rows, envs]) for name in ("actions", "rewards", "dones", "timeouts")
        }
        newest = np.arange(1, self.n_envs + 1) * n_rows - 1
        _truncate(steps["dones"], steps["timeouts"], newest)
        steps["observations"] = map_observations(lambda array: in_a_row(array[rows, envs]), self.observations)
        steps["next_observations"] = map_observations(in_a_row, self.next_observations_of(rows, envs))
        other._allocate()
        other._add_steps(steps)
        return other

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        Sample single transitions, as :meth:`ReplayBuffer.sample` does.

        :param batch_size: Number of transitions.
        :param env: ``VecNormalize`` whose statistics normalize observations and rewards, if any.
        :return: The transitions.
        :raises ValueError: If the buffer is empty.
        """
        if not self.allocated:
            raise ValueError("The replay buffer is empty: add transitions before sampling.")
        batch = self.sample_sequences(batch_size, 1, env)
        rewards = batch.rewards[0].unsqueeze(-1)
        if env is not None and env.norm_reward:
            rewards = self.to_torch(env.normalize_reward(rewards.cpu().numpy()))
        samples = DictReplayBufferSamples if isinstance(self.obs_shape, dict) else ReplayBufferSamples
        return samples(
            observations=map_observations(lambda values: values[0], batch.observations),
            actions=batch.actions[0],
            next_observations=map_observations(lambda values: values[1], batch.observations),
            dones=batch.terminations[0].unsqueeze(-1),
            rewards=rewards,
        )

    def sampled_rows(self) -> tuple[int, int]:
        """:return: Index of the oldest row that can be sampled, and the number of rows that can be sampled."""
        if not self.full:
            return 0, self.pos
        if not self.optimize_memory_usage:
            return self.pos, self.buffer_size
        # The next observation of the newest step has overwritten the observation of the oldest step.
        return self.pos + 1, self.buffer_size - 1

    def _rows_in_order(self) -> np.ndarray:
        """:return: Rows that can be sampled, the oldest one first."""
        oldest, size = self.sampled_rows()
        return (oldest + np.arange(size)) % self.buffer_size

    def stored_observations(self) -> Any:
        """:return: Observations ``(rows, n_envs, *)`` of the stored steps, or a dictionary of such arrays."""
        return map_observations(lambda array: array[: self.size()], self.observations)

    def first_observations(self, number: int, env: VecNormalize | None = None) -> Any:
        """
        Get the first stored observations of episodes. They are always those of the same episodes, chosen at random.

        :param number: Largest number of episodes, B.
        :param env: ``VecNormalize`` whose statistics normalize observations, if any.
        :return: Observations ``(B, *)``, or a dictionary of such tensors, on the device of the buffer.
        """
        (oldest, size), table = self.sampled_rows(), self._episodes()
        chosen = np.random.default_rng(0).permutation(len(table))[:number]
        first, envs, _ = table.lookup(chosen, size)
        rows = (oldest + first) % self.buffer_size
        observations = map_observations(lambda array: array[rows, envs], self.observations)
        return map_observations(self._from_host, self._normalize_obs(observations, env))

    @property
    def reward_range(self) -> tuple[float, float]:
        """Smallest and largest reward of the stored steps; zero if there are none."""
        if self.size() == 0:
            return 0.0, 0.0
        rewards = self.rewards[: self.size()]
        return float(rewards.min()), float(rewards.max())

    def can_sample(self, horizon: int) -> bool:
        """
        Tell whether sequences can be sampled.

        :param horizon: Number of steps in a sequence.
        :return: Whether the buffer holds a sequence of this length.
        """
        return self.sampled_rows()[1] >= horizon

    def sample_sequences(
        self,
        batch_size: int,
        horizon: int,
        env: VecNormalize | None = None,
        sampling: SequenceSampling = UNIFORM,
        outcomes: bool = False,
    ) -> SequenceBatch:
        """
        Sample sequences of consecutive steps. Each sequence is from one environment.

        Steps with fewer than ``horizon - 1`` steps after them are not the first of a sequence. The mask is zero after
        the end of the first episode in a sequence. Rewards are always those of the environment: a world model that was
        trained on other data predicts no others, and PWM scales rewards itself.

        :param batch_size: Number of sequences, B.
        :param horizon: Number of steps in a sequence, H.
        :param env: ``VecNormalize`` whose statistics normalize observations, if any.
        :param sampling: How the first steps of the sequences are drawn.
        :param outcomes: Whether to tell what followed until the ends of the episodes, discounted by ``sampling.gamma``.
            It is not known of the newest steps, fewer than :data:`OUTCOMES_EVERY` per environment.
        :return: The sequences, on the device of the buffer.
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
        n_new = self._n_new_sequences(batch_size, horizon, sampling.new_fraction)
        if n_new:
            starts[:n_new] = size - np.random.randint(horizon, min(self.n_new_rows, size) + 1, size=n_new)
        n_discounted = round(sampling.discounted_fraction * (batch_size - n_new))
        if n_discounted:
            drawn = slice(n_new, n_new + n_discounted)
            starts[drawn], envs[drawn] = self._discounted_steps(n_discounted, size - horizon, sampling.gamma)
        steps = (oldest + starts + np.arange(horizon)[:, None]) % self.buffer_size  # (H, B)

        gather = self._gather_on_device if self._wants_rows() else self._gather_on_host
        observations, actions, rewards, dones, timeouts = gather(steps, envs, env)
        # A step counts while no earlier step of the sequence ended the episode.
        mask = th.cat([th.ones_like(dones[:1]), th.cumprod(1.0 - dones[:-1], dim=0)])
        outcome = self._outcome(steps, envs, env, sampling.gamma) if outcomes else None
        return SequenceBatch(observations, actions, rewards, dones * (1.0 - timeouts), mask, outcome=outcome)

    def _outcome(self, rows: np.ndarray, envs: np.ndarray, env: VecNormalize | None, gamma: float) -> Outcome:
        """:return: What followed the steps in these rows ``(H, B)``."""
        table = self._outcome_table
        if table is None or table.n_unknown >= OUTCOMES_EVERY or table.gamma != gamma:
            order = self._rows_in_order()
            terminations = self.dones[order] * (1.0 - self.timeouts[order])
            table = OutcomeTable(order, self._episodes(), self.rewards[order], terminations, gamma)
            self._outcome_table = table
        returns, bootstrap, ends = table.lookup(rows, np.broadcast_to(envs, rows.shape))
        last = self._normalize_obs(self.next_observations_of(ends[0], envs), env)
        return Outcome(self._from_host(returns), self._from_host(bootstrap), map_observations(self._from_host, last))

    def _n_new_sequences(self, batch_size: int, horizon: int, new_fraction: float) -> int:
        """:return: Number of sequences of a batch that are drawn from new steps, see :class:`SequenceSampling`."""
        if self.n_new_rows < horizon:
            return 0
        # With few new steps, each would be replayed so often that the networks learn it by heart.
        return round(min(new_fraction * batch_size, self.n_new_rows * self.n_envs / horizon))

    def _discounted_steps(self, number: int, last: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
        """
        Draw steps of episodes with the weight ``gamma ** t`` for step t.

        :param number: Number of steps.
        :param last: Largest step that may be drawn, counted from the oldest one.
        :param gamma: Discount factor.
        :return: Steps, counted from the oldest one, and their environments, ``(number,)`` each.
        """
        table = self._episodes()
        first, envs, length = table.lookup(np.arange(len(table)), self.sampled_rows()[1])
        # An episode has the sum of the weights of its steps: otherwise the steps of short ones would count for more.
        totals = np.cumsum((1.0 - gamma**length) / (1.0 - gamma) if gamma < 1.0 else length)
        chosen = np.searchsorted(totals, np.random.random(number) * totals[-1], side="right")
        first, envs, length = first[chosen], envs[chosen], length[chosen]
        u = np.random.random(number)
        if gamma < 1.0:  # the inverse of the distribution function of a geometric distribution that ends at the length
            offset = np.log1p(-u * (1.0 - gamma**length)) / np.log(gamma) if gamma > 0.0 else np.zeros(number)
        else:
            offset = u * length
        steps = first + np.minimum(offset.astype(np.int64), length - 1)
        return np.minimum(steps, last), envs

    def _episodes(self) -> EpisodeTable:
        """:return: The stored episodes. The table is made once, and kept up to date by :meth:`add`."""
        if self._episode_table is None:
            self._episode_table = EpisodeTable(self.dones[self._rows_in_order()])
        return self._episode_table

    @property
    def episode_lengths(self) -> np.ndarray:
        """Number of stored steps of each episode. An episode may have lost its first steps, or not have ended yet."""
        table = self._episodes()
        return table.lookup(np.arange(len(table)), self.sampled_rows()[1])[2]

    def _gather_on_host(self, steps: np.ndarray, envs: np.ndarray, env: VecNormalize | None) -> tuple[Any, ...]:
        """
        Gather sequences from the host's arrays.

        :param steps: Rows of the steps, ``(H, B)``.
        :param envs: Environments of the sequences, ``(B,)``.
        :param env: ``VecNormalize`` whose statistics normalize observations, if any.
        :return: Observations ``(H + 1, B, *)``, and actions, rewards, dones and timeouts ``(H, B, *)``.
        """
        first = map_observations(lambda array: array[steps[:1], envs], self.observations)
        after = self.next_observations_of(steps, np.broadcast_to(envs, steps.shape))
        observations = map_observations(lambda *parts: np.concatenate(parts), first, after)
        arrays = (array[steps, envs] for array in (self.actions, self.rewards, self.dones, self.timeouts))
        normalized = self._normalize_obs(observations, env)
        return map_observations(self._from_host, normalized), *(self._from_host(array) for array in arrays)

    def _from_host(self, array: np.ndarray) -> th.Tensor:
        """
        Move an array to the device.

        :param array: Array that nothing else uses.
        :return: Tensor on the device.
        """
        if self.device.type != "cuda":
            return self.to_torch(array, copy=False)
        # From page-locked memory, the copy is asynchronous.
        return th.from_numpy(array).pin_memory().to(self.device, non_blocking=True)

    def next_observations_of(self, rows: np.ndarray, envs: np.ndarray) -> Any:
        """
        Get the next observations of steps.

        :param rows: Rows of the steps, an array of any shape.
        :param envs: Environments of the steps, an array of the same shape.
        :return: Next observations ``(*shape, *)``, or a dictionary of such arrays.
        """
        observations = map_observations(lambda array: array[rows, envs], self.next_observations)
        if self.optimize_memory_usage:
            for where in zip(*np.nonzero(self.dones[rows, envs]), strict=True):
                last = self._last_observations[int(rows[where]), int(envs[where])]
                map_observations(lambda array, value, at=where: array.__setitem__(at, value), observations, last)
        return observations

    def _gather_on_device(self, steps: np.ndarray, envs: np.ndarray, env: VecNormalize | None) -> tuple[th.Tensor, ...]:
        """Gather sequences from the rows on the device, see :meth:`_gather_on_host`."""
        rows = self._device_rows()[self._send(steps), self._send(envs)]  # (H, B, row)
        size = int(np.prod(self.obs_shape))  # type: ignore[arg-type]
        before, after, actions, rest = rows.split([size, size, self.action_dim, 3], dim=-1)
        observations = th.cat([before[:1], after])
        observations = observations.reshape(*observations.shape[:-1], *self.obs_shape)  # type: ignore[misc]
        rewards, dones, timeouts = rest.unbind(-1)
        if env is not None and env.norm_obs:
            assert isinstance(env.obs_rms, RunningMeanStd)
            mean, var = (self._send(value.astype(np.float32)) for value in (env.obs_rms.mean, env.obs_rms.var))
            observations = ((observations - mean) / th.sqrt(var + env.epsilon)).clamp(-env.clip_obs, env.clip_obs)
        return observations, actions, rewards, dones, timeouts

    def _send(self, values: np.ndarray) -> th.Tensor:
        """:return: Copy of the values on the device."""
        return th.from_numpy(values).to(self.device, non_blocking=True)
