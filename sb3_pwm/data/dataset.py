"""Offline data sets of one or many tasks, in memory or memory-mapped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch as th
from numpy.typing import ArrayLike, NDArray
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_pwm.common.checks import check_choice, check_distinct, check_name, check_number
from sb3_pwm.common.packaged import data_source
from sb3_pwm.data.cleaning import clean_episode
from sb3_pwm.data.readers.arrays import array_episodes
from sb3_pwm.data.readers.minari import minari_episodes
from sb3_pwm.data.readers.replay_buffer import replay_buffer_episodes, replay_buffer_file, replay_buffer_file_episodes
from sb3_pwm.data.readers.tdmpc2 import tdmpc2_episodes
from sb3_pwm.data.sources import check_sources, record_sources
from sb3_pwm.data.storage import INDEX, MemoryWriter, StorageWriter, open_storage, read_index
from sb3_pwm.data.types import SequenceBatch, SourceEpisode, TaskData

BALANCES = ("size", "task")
"""Valid values of ``balance``, see :meth:`OfflineDataset.sample`"""
LAST_STEPS = 16
"""Number of steps before a termination that are sampled more often, see :meth:`OfflineDataset.sample`"""


class OfflineDataset:
    """
    Episodes of one or many tasks, from which batches of sequences are sampled.

    :meth:`load` opens data of any kind. :meth:`from_arrays` and :meth:`from_replay_buffer` take data from memory.

    Tasks may differ in their dimensions. Each task is stored in its own dimensions. Batches have the dimensions of the
    largest task, and the observations and actions of smaller tasks are padded with zeros.

    :param data: Data of each task.
    :raises ValueError: If there is no task, a task has no episode, or two tasks have the same name.
    """

    def __init__(self, data: Sequence[TaskData]):
        if not data:
            raise ValueError("A data set needs at least one task.")
        check_distinct("The tasks of a data set", [task.name for task in data])
        for task in data:
            if not len(task.lengths):
                raise ValueError(f"The data set has no episode of {task.name}.")
        self.data = tuple(data)
        self._ends: dict[int, list[NDArray[np.int64]]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of the task indices of a batch."""
        return tuple(task.name for task in self.data)

    @property
    def observation_dim(self) -> int:
        """Size of the largest observation of all tasks."""
        return max(task.observations.shape[1] for task in self.data)

    @property
    def action_dim(self) -> int:
        """Size of the largest action of all tasks."""
        return max(task.actions.shape[1] for task in self.data)

    @property
    def n_episodes(self) -> int:
        """Number of episodes of all tasks."""
        return sum(len(task.lengths) for task in self.data)

    @property
    def n_steps(self) -> int:
        """Number of steps of all tasks."""
        return sum(int(task.lengths.sum()) for task in self.data)

    @property
    def has_terminations(self) -> bool:
        """Whether an episode of any task terminated."""
        return any(bool(task.terminated.any()) for task in self.data)

    @property
    def reward_range(self) -> tuple[float, float]:
        """Smallest and largest reward of all tasks."""
        lows, highs = zip(*(task.reward_range for task in self.data), strict=True)
        return min(lows), max(highs)

    def __repr__(self) -> str:
        return (
            f"OfflineDataset({len(self.data)} tasks, {self.n_episodes:,} episodes, {self.n_steps:,} steps, "
            f"observations of up to {self.observation_dim}, actions of up to {self.action_dim})"
        )

    def task_data(self, task: str) -> TaskData:
        """
        Get the data of one task.

        :param task: Name of the task.
        :return: Episodes of the task.
        :raises ValueError: If the data set has no such task.
        """
        check_name("task", task, self.tasks, "The data set")
        return self.data[self.tasks.index(task)]

    def select(self, tasks: Sequence[str]) -> OfflineDataset:
        """
        Select tasks without copying their data.

        :param tasks: Names of the tasks.
        :return: Data set of these tasks, in this order.
        :raises ValueError: If the data set has no such task.
        """
        return OfflineDataset([self.task_data(task) for task in tasks])

    def split(self, validation_fraction: float = 0.05, seed: int = 0) -> tuple[OfflineDataset, OfflineDataset]:
        """
        Split the episodes of each task into two data sets, without copying them.

        :param validation_fraction: Share of the held-out episodes, above 0 and below 1. At least one episode of each
            task is held out.
        :param seed: Seed of the choice of the held-out episodes.
        :return: Data set of the training episodes, and data set of the held-out episodes.
        :raises ValueError: If the share is out of range, or a task has a single episode.
        """
        check_number("validation_fraction", validation_fraction, 0.0, 1.0, above=True, below=True)
        parts = []
        for task in self.data:
            n_episodes = len(task.lengths)
            if n_episodes < 2:
                raise ValueError(
                    f"{task.name} has a single episode, which cannot be split into training and held-out episodes: "
                    "give at least two episodes of each task."
                )
            n_held_out = min(max(round(validation_fraction * n_episodes), 1), n_episodes - 1)
            order = np.random.default_rng([seed, *task.name.encode()]).permutation(n_episodes)
            held_out, kept = np.sort(order[:n_held_out]), np.sort(order[n_held_out:])
            parts.append((task.subset(kept), task.subset(held_out)))
        return OfflineDataset([kept for kept, _ in parts]), OfflineDataset([held_out for _, held_out in parts])

    def sample(
        self,
        batch_size: int,
        horizon: int,
        rng: np.random.Generator,
        balance: str = "size",
        pin_memory: bool = False,
        ends_fraction: float = 0.0,
    ) -> SequenceBatch:
        """
        Sample sequences of consecutive steps. Each sequence is from one episode.

        All sequences of a task are equally likely. An episode that is shorter than the horizon counts as one sequence:
        it is sampled whole, and the mask is zero after its end.

        :param batch_size: Number of sequences, B.
        :param horizon: Number of steps in a sequence, H.
        :param rng: Random number generator.
        :param balance: How often a task is sampled. ``"size"``: in proportion to the number of its sequences.
            ``"task"``: as often as every other task.
        :param pin_memory: Whether the tensors are in page-locked memory, from which copies to a GPU are asynchronous.
        :param ends_fraction: Fraction of the sequences that are of the last :data:`LAST_STEPS` steps of an episode that
            terminated, where the task has such an episode. They may begin as late as in the last step; the mask is zero
            after it. All steps of these are equally likely to be the first, so that terminations and the steps before
            them stay as frequent as each other.
        :return: The sequences on the CPU, padded to :attr:`observation_dim` and :attr:`action_dim`. The task indices
            are indices into :attr:`tasks`, and are given for a single task too.
        :raises ValueError: If ``balance`` is another value, or a number is not positive.
        """
        check_number("batch_size", batch_size, 1, integer=True)
        check_number("horizon", horizon, 1, integer=True)
        check_choice("balance", balance, BALANCES)
        check_number("ends_fraction", ends_fraction, 0.0, 1.0)
        ends = self._sequence_ends(horizon)
        weights = np.array([end[-1] if balance == "size" else 1.0 for end in ends], np.float64)
        chosen = np.sort(rng.choice(len(self.data), size=batch_size, p=weights / weights.sum()))

        def empty(*shape: int) -> th.Tensor:
            return th.zeros(*shape, pin_memory=pin_memory)

        batch = SequenceBatch(
            observations=empty(horizon + 1, batch_size, self.observation_dim),
            actions=empty(horizon, batch_size, self.action_dim),
            rewards=empty(horizon, batch_size),
            terminations=empty(horizon, batch_size),
            mask=empty(horizon, batch_size),
            task=th.from_numpy(chosen),
            representative=None if ends_fraction == 0.0 else empty(batch_size),
        )
        arrays = [value.numpy() for value in batch[:5]]  # type: ignore[union-attr]
        for number in np.unique(chosen):
            first, last = np.flatnonzero(chosen == number)[[0, -1]].tolist()
            columns = slice(first, last + 1)  # the columns of a task are neighbors, because the tasks are sorted
            out = [array[:, columns] for array in arrays]
            at_end = self._gather(self.data[number], ends[number], horizon, rng, ends_fraction, out)
            if batch.representative is not None:
                batch.representative[columns] = th.from_numpy(~at_end).float()
        return batch

    def _sequence_ends(self, horizon: int) -> list[NDArray[np.int64]]:
        """:return: For each task, the number of sequences in its first 1, 2, ... episodes, ``(E,)``."""
        if horizon not in self._ends:  # counting takes longer than an update if there are millions of episodes
            self._ends[horizon] = [np.cumsum(np.maximum(task.lengths - horizon + 1, 1)) for task in self.data]
        return self._ends[horizon]

    @staticmethod
    def _gather(
        task: TaskData,
        ends: NDArray[np.int64],
        horizon: int,
        rng: np.random.Generator,
        ends_fraction: float,
        out: list[NDArray[np.float32]],
    ) -> NDArray[np.bool_]:
        """
        Sample sequences of one task into its columns of a batch.

        :param task: Data of the task.
        :param ends: Number of sequences in the first 1, 2, ... episodes, see :meth:`_sequence_ends`.
        :param horizon: Number of steps in a sequence, H.
        :param rng: Random number generator.
        :param ends_fraction: Fraction of the sequences that are at the ends of episodes that terminated.
        :param out: Columns of the batch: observations, actions, rewards, terminations and mask. They are zero.
        :return: Whether each sequence is one of those at the ends of episodes, ``(B,)``.
        """
        observations, actions, rewards, terminations, mask = out
        position = rng.integers(0, ends[-1], size=rewards.shape[1])
        episodes = np.searchsorted(ends, position, side="right")
        offsets = position - np.where(episodes > 0, ends[episodes - 1], 0)  # (B,), index of the first step
        at_end = np.zeros(len(episodes), bool)
        if ends_fraction > 0.0 and len(terminated := np.flatnonzero(task.terminated)):
            at_end = rng.random(len(episodes)) < ends_fraction
            episodes[at_end] = rng.choice(terminated, at_end.sum())
            before_end = rng.integers(1, LAST_STEPS + 1, at_end.sum())
            offsets[at_end] = np.maximum(task.lengths[episodes[at_end]] - before_end, 0)
        steps = offsets + np.arange(horizon + 1)[:, None]  # (H + 1, B)
        lengths = task.lengths[episodes]
        rows = task.first[episodes] + np.minimum(steps, lengths)  # the last observation is repeated after the end
        observations[..., : task.observations.shape[1]] = task.observations[rows]
        actions[..., : task.actions.shape[1]] = task.actions[rows[:-1]]
        rewards[:] = task.rewards[rows[:-1]]
        mask[:] = steps[:-1] < lengths
        terminations[:] = (steps[:-1] == lengths - 1) & task.terminated[episodes]
        return at_end

    def in_memory(self) -> OfflineDataset:
        """:return: A copy in memory. Sampling from it reads no files."""
        return OfflineDataset(
            [
                dataclasses.replace(
                    task,
                    observations=np.array(task.observations),
                    actions=np.array(task.actions),
                    rewards=np.array(task.rewards),
                )
                for task in self.data
            ]
        )

    # --- Sources ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_episodes(cls, episodes: Iterable[SourceEpisode], storage: str | Path | None = None) -> OfflineDataset:
        """
        Make a data set of episodes.

        :param episodes: Episodes of one or many tasks, in any order. They are read one at a time. Lists, integers and
            float64 are converted to float32 arrays, and numbers per step to arrays of one column.
        :param storage: New or empty folder to store the data in. The data set is memory-mapped then. None: the data is
            kept in memory.
        :return: The data set. The tasks are in the order of their first episodes.
        :raises FileExistsError: If the folder is not empty.
        :raises ValueError: If an episode is empty, has a value that is not finite, an action that is not in [-1, 1], or
            other dimensions than earlier episodes of its task. The message names the file, the episode and the step.
        """
        return cls._from_episodes(episodes, storage)

    @classmethod
    def _from_episodes(
        cls,
        episodes: Iterable[SourceEpisode],
        storage: str | Path | None,
        sources: Sequence[str | Path] | None = None,
    ) -> OfflineDataset:
        """:param sources: What the episodes are read from, to be recorded in the storage."""
        if storage is None:
            writer: MemoryWriter | StorageWriter = MemoryWriter()
        else:
            writer = StorageWriter(Path(storage), None if sources is None else record_sources(sources))
        for source in episodes:
            if not isinstance(source, tuple) or len(source) != 3:
                raise ValueError(
                    "from_episodes takes SourceEpisode(task, episode, where), with the name of the task and a name of "
                    f"the episode for messages, got a {type(source).__name__}."
                )
            task, episode, where = source
            writer.add(task, clean_episode(episode, where), where)
        return cls(writer.finish())

    @classmethod
    def from_minari(
        cls, ids_or_paths: str | Path | Sequence[str | Path], storage: str | Path | None = None
    ) -> OfflineDataset:
        """
        Read Minari data sets.

        The name of the task is the one that ``sb3-pwm collect`` stored in the data set. If there is none, it is the
        environment id in lower case, or the name of the data set if it has no environment.

        Data sets of the same environment id with the same arguments are one task, and so are versions of one data set
        without environment. If different tasks would have the same name, their names are longer: they have the
        arguments that differ, ``"hopper-v5(frame_skip=8)"``, or more of the id, ``"pick/human"`` and ``"place/human"``.

        Observations of a ``Dict`` or another space are flattened, as ``gymnasium.wrappers.FlattenObservation`` does, so
        that they fit an environment in this wrapper. An episode that ends within its steps becomes several.

        :param ids_or_paths: Ids such as ``"mt30/walker-walk-v0"``, folders of data sets, or folders with data sets at
            any depth.
        :param storage: Folder to store the data in, see :meth:`from_episodes`.
        :return: The data set. Actions are scaled from the bounds of the action space to [-1, 1]. Actions outside the
            bounds are clipped, with a warning. The scaled action is 0 where both bounds are equal.
        :raises FileNotFoundError: If a data set does not exist.
        :raises ImportError: If Minari is not installed.
        :raises ValueError: If a file is damaged, observations are images, the action space is not a ``Box`` with finite
            bounds, or for a reason in :meth:`from_episodes`.
        """
        several = _as_list(ids_or_paths)
        return cls._from_episodes(minari_episodes(several), storage, several)

    @classmethod
    def from_tdmpc2(
        cls,
        paths: str | Path | Sequence[str | Path],
        tasks: Sequence[str] | None = None,
        storage: str | Path | None = None,
    ) -> OfflineDataset:
        """
        Read data sets of TD-MPC2. No code in the files is executed, and tensordict is not needed.

        :param paths: Files (``chunk_0.pt``, ...), or folders of such files.
        :param tasks: Names of the tasks, by their number in the files. None: the names of MT80, which begins with MT30.
        :param storage: Folder to store the data in, see :meth:`from_episodes`.
        :return: The data set. Padding is removed from the tasks of MT80. Other tasks keep the dimensions of the files.
        :raises FileNotFoundError: If a file does not exist.
        :raises ValueError: If a file is damaged, has another format, or for a reason in :meth:`from_episodes`.
        """
        several = _as_list(paths)
        return cls._from_episodes(tdmpc2_episodes(several, tasks), storage, several)

    @classmethod
    def from_replay_buffer(
        cls, buffer: ReplayBuffer | str | Path, task: str = "task", storage: str | Path | None = None
    ) -> OfflineDataset:
        """
        Take the complete episodes of a replay buffer of SB3, as one task. Observations of a ``Dict`` are flattened, see
        :meth:`from_minari`.

        :param buffer: The replay buffer, or its file, from ``save_replay_buffer``. Reading the file can execute code in
            it, as with SB3's ``load_replay_buffer``: open only files that you trust.
        :param task: Name of the task.
        :param storage: Folder to store the data in, see :meth:`from_episodes`.
        :return: The data set.
        :raises FileNotFoundError: If the file does not exist.
        :raises ValueError: If it is not a replay buffer, its observations are a ``Dict`` with images, its actions are
            not a ``Box`` with finite bounds or are not scaled to [-1, 1], it holds no complete episode, or it was
            written by an older version of this package.
        """
        return cls.from_episodes(replay_buffer_episodes(buffer, task), storage)

    @classmethod
    def from_arrays(
        cls,
        observations: ArrayLike,
        actions: ArrayLike,
        rewards: ArrayLike,
        terminations: ArrayLike,
        truncations: ArrayLike,
        next_observations: ArrayLike | None = None,
        task: str = "task",
        storage: str | Path | None = None,
    ) -> OfflineDataset:
        """
        Take the episodes of flat arrays of consecutive steps, as D4RL has them, as one task.

        An episode ends at a step that ``terminations`` or ``truncations`` marks. The last episode may lack its end, and
        counts as truncated then.

        The world model needs the observation after the last step of each episode, which ``next_observations`` has.
        Without ``next_observations``, the last step of each episode is left out, and no episode may terminate.

        :param observations: Observations ``(N, O)`` of N steps.
        :param actions: Actions ``(N, A)``, scaled to [-1, 1].
        :param rewards: Rewards ``(N,)``.
        :param terminations: Whether each step terminated its episode, ``(N,)``. D4RL calls them ``terminals``.
        :param truncations: Whether each step truncated its episode, ``(N,)``. D4RL calls them ``timeouts``. A step that
            both arrays mark counts as a termination.
        :param next_observations: Observations after the steps, ``(N, O)``.
        :param task: Name of the task.
        :param storage: Folder to store the data in, see :meth:`from_episodes`.
        :return: The data set.
        :raises ValueError: If the shapes do not fit each other, actions are not in [-1, 1], the steps are not
            consecutive, ``next_observations`` is needed, there is no episode, or for a reason in :meth:`from_episodes`.
        """
        episodes = array_episodes(observations, actions, rewards, terminations, truncations, next_observations, task)
        return cls.from_episodes(episodes, storage)

    @classmethod
    def load(cls, sources: str | Path | Sequence[str | Path], storage: str | Path | None = None) -> OfflineDataset:
        """
        Open data of any kind: a stored data set, Minari data sets, data sets of TD-MPC2, or replay buffers of SB3.

        :param sources: Folder of a data set that :meth:`save` or ``storage=`` wrote. Such a data set is memory-mapped,
            so that only sampled steps are read. Or the name of a world model that comes with the package
            (``"mt7"``), for a part of its data. Or one or several Minari ids or folders, see :meth:`from_minari`. Or
            one or several files of TD-MPC2 (.pt), see :meth:`from_tdmpc2`. Or one or several files of SB3's replay
            buffers (.pkl): ``TASK=FILE``, or the file alone, whose name is the task's then, and which may be rl-zoo3's
            (``Hopper-v5_1/replay_buffer.pkl``). Reading such a file can execute code in it, as with SB3's
            ``load_replay_buffer``: open only files that you trust.
        :param storage: Folder to store the data in, see :meth:`from_episodes`. If it holds the data of these sources
            already, they are not read again, and need not exist anymore. It has no effect if the source is a stored
            data set.
        :return: The data set.
        :raises FileNotFoundError: If a file, a folder or an id does not exist.
        :raises ValueError: If a file is damaged, the sources are of different kinds, or the storage holds data of other
            sources or of a former state of them. The message names the file.
        """
        several = [data_source(source) for source in _as_list(sources)]
        stored = [source for source in several if (Path(source) / INDEX).is_file()]
        chunks = [source for source in several if Path(source).suffix == ".pt"]
        buffers = [file for source in several if (file := replay_buffer_file(source)) is not None]
        if stored and len(several) > 1:
            raise ValueError(f"{stored[0]} is a stored data set, which cannot be loaded with other data.")
        if stored:
            return cls(open_storage(Path(stored[0])))
        if storage is not None and (Path(storage) / INDEX).is_file():
            check_sources(read_index(Path(storage)).get("sources"), several, Path(storage))
            return cls(open_storage(Path(storage)))
        if chunks and len(chunks) < len(several):
            raise ValueError(f"{chunks[0]} is a file of TD-MPC2, which cannot be loaded with other data.")
        if buffers and len(buffers) < len(several):
            raise ValueError(f"{buffers[0].path} is a replay buffer, which cannot be loaded with other data.")
        if buffers:
            return cls._from_episodes(replay_buffer_file_episodes(buffers), storage, several)
        if chunks:
            return cls.from_tdmpc2(chunks, storage=storage)
        return cls.from_minari(several, storage)

    def save(self, folder: str | Path) -> None:
        """
        Store the data set in a folder, from which :meth:`load` opens it.

        :param folder: A new or empty folder.
        :raises FileExistsError: If the folder is not empty.
        """
        writer = StorageWriter(Path(folder))
        for task in self.data:
            for number in range(len(task.lengths)):
                writer.add(task.name, task.episode(number), f"episode {number} of {task.name}")
        writer.finish()


def _as_list(sources: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """:return: List of the sources, which may be a single one."""
    return [sources] if isinstance(sources, str | Path) else list(sources)
