"""Offline data of one task or many, in memory or memory-mapped, as batches of sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_pwm.data.readers.minari import minari_episodes
from sb3_pwm.data.readers.replay_buffer import replay_buffer_episodes
from sb3_pwm.data.readers.tdmpc2 import tdmpc2_episodes
from sb3_pwm.data.storage import INDEX, MemoryWriter, StorageWriter, open_storage
from sb3_pwm.data.types import SequenceBatch, SourceEpisode, TaskData, check_episode

BALANCES = ("size", "task")


class OfflineDataset:
    """
    Episodes of one task or many, from which sequences are sampled.

    Observations and actions of smaller tasks are padded with zeros to the largest one's when they are sampled; they are
    stored as they are. Make one with :meth:`from_minari`, :meth:`from_tdmpc2`, :meth:`from_replay_buffer` or
    :meth:`load`.

    :param data: The tasks.
    :raises ValueError: If there is no task, or a task without an episode, or two of the same name.
    """

    def __init__(self, data: Sequence[TaskData]):
        names = [task.name for task in data]
        if not data:
            raise ValueError("A data set needs at least one task.")
        if len(set(names)) != len(names):
            raise ValueError(f"The tasks of a data set must be distinct, got {', '.join(names)}.")
        for task in data:
            if not len(task.lengths):
                raise ValueError(f"The data set has no episode of {task.name}.")
        self.data = tuple(data)
        self._ends: dict[int, list[NDArray[np.int64]]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks; a batch's task indices count in them."""
        return tuple(task.name for task in self.data)

    @property
    def observation_dim(self) -> int:
        """Size of the largest task's observation."""
        return max(task.observations.shape[1] for task in self.data)

    @property
    def action_dim(self) -> int:
        """Size of the largest task's action."""
        return max(task.actions.shape[1] for task in self.data)

    @property
    def n_episodes(self) -> int:
        """Number of episodes of all tasks."""
        return sum(len(task.lengths) for task in self.data)

    @property
    def n_steps(self) -> int:
        """Number of steps of all tasks."""
        return sum(int(task.lengths.sum()) for task in self.data)

    def __repr__(self) -> str:
        return (
            f"OfflineDataset({len(self.data)} tasks, {self.n_episodes:,} episodes, {self.n_steps:,} steps, "
            f"observations of up to {self.observation_dim}, actions of up to {self.action_dim})"
        )

    def task_data(self, task: str) -> TaskData:
        """
        :param task: A task's name.
        :return: Its episodes.
        :raises ValueError: If the data set has no such task.
        """
        if task not in self.tasks:
            raise ValueError(f"The data set has no task {task!r}; its tasks are {', '.join(self.tasks)}.")
        return self.data[self.tasks.index(task)]

    def select(self, tasks: Sequence[str]) -> OfflineDataset:
        """
        :param tasks: Names of tasks.
        :return: A data set of these only, in that order, of the same arrays.
        :raises ValueError: If the data set has no such task.
        """
        return OfflineDataset([self.task_data(task) for task in tasks])

    def split(self, validation: float = 0.05, seed: int = 0) -> tuple[OfflineDataset, OfflineDataset]:
        """
        Split by episode, within each task.

        :param validation: Share of the episodes for validation, at least one of each task.
        :param seed: Decides which.
        :return: Data sets for training and for validation, of the same arrays.
        :raises ValueError: If the share is not in (0, 1), or a task has a single episode.
        """
        if not 0.0 < validation < 1.0:
            raise ValueError(f"validation must be a share between 0 and 1, got {validation!r}.")
        parts = []
        for task in self.data:
            n_episodes = len(task.lengths)
            if n_episodes < 2:
                raise ValueError(f"{task.name} has a single episode, which cannot be split.")
            n_held_out = min(max(round(validation * n_episodes), 1), n_episodes - 1)
            order = np.random.default_rng([seed, *task.name.encode()]).permutation(n_episodes)
            held_out, kept = np.sort(order[:n_held_out]), np.sort(order[n_held_out:])
            parts.append((task.subset(kept), task.subset(held_out)))
        return OfflineDataset([kept for kept, _ in parts]), OfflineDataset([held_out for _, held_out in parts])

    def sample(
        self, batch_size: int, horizon: int, rng: np.random.Generator, balance: str = "size", pin_memory: bool = False
    ) -> SequenceBatch:
        """
        Sequences of consecutive steps of one episode each, uniform over all sequences of a task.

        :param batch_size: Number of sequences, B.
        :param horizon: Number of steps in a sequence, H. Of a shorter episode the whole is taken; after its end the
            mask is zero.
        :param rng: Decides which.
        :param balance: ``"size"``: tasks by the number of their sequences; ``"task"``: all tasks alike.
        :param pin_memory: Whether the tensors lie in page-locked memory, from which copies to a GPU run on their own.
        :return: The sequences, padded, on the CPU; ``task`` counts in :attr:`tasks`, and is given for a single one too.
        :raises ValueError: If ``balance`` is none of the two, or a number is not positive.
        """
        if batch_size < 1 or horizon < 1:
            raise ValueError(f"batch_size and horizon must be positive, got {batch_size} and {horizon}.")
        if balance not in BALANCES:
            raise ValueError(f"balance must be one of {BALANCES}, got {balance!r}.")
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
        )
        arrays = [value.numpy() for value in batch[:5]]  # type: ignore[union-attr]
        for number in np.unique(chosen):
            first, last = np.flatnonzero(chosen == number)[[0, -1]].tolist()
            columns = slice(first, last + 1)  # sorted above, so they are neighbors
            self._gather(self.data[number], ends[number], horizon, rng, [a[:, columns] for a in arrays])
        return batch

    def _sequence_ends(self, horizon: int) -> list[NDArray[np.int64]]:
        """:return: For each task how many sequences start in its first 1, 2, ... episodes, ``(E,)``."""
        if horizon not in self._ends:  # of millions of episodes, counting them would take longer than an update
            self._ends[horizon] = [np.cumsum(np.maximum(task.lengths - horizon + 1, 1)) for task in self.data]
        return self._ends[horizon]

    @staticmethod
    def _gather(
        task: TaskData,
        ends: NDArray[np.int64],
        horizon: int,
        rng: np.random.Generator,
        out: list[NDArray[np.float32]],
    ) -> None:
        """Fill a task's columns of a batch: observations, actions, rewards, terminations, mask."""
        observations, actions, rewards, terminations, mask = out
        position = rng.integers(0, ends[-1], size=rewards.shape[1])
        episodes = np.searchsorted(ends, position, side="right")
        offsets = position - np.where(episodes > 0, ends[episodes - 1], 0)  # (B,) first step within the episode
        steps = offsets + np.arange(horizon + 1)[:, None]  # (H + 1, B)
        lengths = task.lengths[episodes]
        rows = task.first[episodes] + np.minimum(steps, lengths)  # after the end: the last observation again
        observations[..., : task.observations.shape[1]] = task.observations[rows]
        actions[..., : task.actions.shape[1]] = task.actions[rows[:-1]]
        rewards[:] = task.rewards[rows[:-1]]
        mask[:] = steps[:-1] < lengths
        terminations[:] = (steps[:-1] == lengths - 1) & task.terminated[episodes]

    def in_memory(self) -> OfflineDataset:
        """:return: A copy that lies in memory, where a memory-mapped one is to be sampled without reading files."""
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

    # --- Where it comes from ----------------------------------------------------------------------------------------

    @classmethod
    def from_episodes(cls, episodes: Iterable[SourceEpisode], storage: str | Path | None = None) -> OfflineDataset:
        """
        :param episodes: Episodes of one task or many, in any order; consumed one by one.
        :param storage: A folder for the data, which is then memory-mapped; None keeps it in memory.
        :return: The data set; its tasks are in the order of their first episodes.
        :raises FileExistsError: If the folder holds something.
        :raises ValueError: If an episode is empty or not finite, or its shapes are not those of its task's others; the
            message names file, episode and step.
        """
        writer = MemoryWriter() if storage is None else StorageWriter(Path(storage))
        for task, episode, where in episodes:
            check_episode(episode, where)
            writer.add(task, episode, where)
        return cls(writer.finish())

    @classmethod
    def from_minari(
        cls, ids_or_paths: str | Path | Sequence[str | Path], storage: str | Path | None = None
    ) -> OfflineDataset:
        """
        :param ids_or_paths: Minari data sets: ids such as ``"mt30/walker-walk-v0"``, their folders, or folders with
            data sets anywhere below them. A task's name is what :mod:`sb3_pwm.collect` has written, else the
            environment's id in lower case, else the data set's name.
        :param storage: See :meth:`from_episodes`.
        :return: The data set.
        :raises FileNotFoundError: If there is no such data set.
        :raises ImportError: If Minari is not installed.
        :raises ValueError: If a file is damaged or foreign, or its spaces are not flat boxes; and see
            :meth:`from_episodes`.
        """
        return cls.from_episodes(minari_episodes(_several(ids_or_paths)), storage)

    @classmethod
    def from_tdmpc2(
        cls,
        paths: str | Path | Sequence[str | Path],
        tasks: Sequence[str] | None = None,
        storage: str | Path | None = None,
    ) -> OfflineDataset:
        """
        :param paths: Files of TD-MPC2's data sets (``chunk_0.pt``, ...), or folders of them. They are read as plain
            tensors; nothing that they say is executed, and tensordict is not needed.
        :param tasks: Names of the tasks that the files count in; None: MT80's, which begin with MT30's.
        :param storage: See :meth:`from_episodes`.
        :return: The data set; its tasks have the dimensions that the files pad them to, but for those of MT80, which
            have their own.
        :raises FileNotFoundError: If there is no such file.
        :raises ValueError: If a file is damaged or of another format; and see :meth:`from_episodes`.
        """
        return cls.from_episodes(tdmpc2_episodes(_several(paths), tasks), storage)

    @classmethod
    def from_replay_buffer(
        cls, buffer: ReplayBuffer | str | Path, task: str = "task", storage: str | Path | None = None
    ) -> OfflineDataset:
        """
        :param buffer: A replay buffer of SB3, or the file of one that ``save_replay_buffer`` has written. Reading a
            file executes what it says: open only files that you trust, as with SB3's ``load_replay_buffer``.
        :param task: The task's name.
        :param storage: See :meth:`from_episodes`.
        :return: The data set of its whole episodes.
        :raises FileNotFoundError: If there is no such file.
        :raises ValueError: If it is no replay buffer of flat observations, or holds no whole episode.
        """
        return cls.from_episodes(replay_buffer_episodes(buffer, task), storage)

    @classmethod
    def load(cls, sources: str | Path | Sequence[str | Path], storage: str | Path | None = None) -> OfflineDataset:
        """
        Open data of any kind.

        :param sources: Folder of a stored data set, which is memory-mapped: only what is sampled is read. Or files of
            TD-MPC2's data sets (.pt), or Minari ids or folders.
        :param storage: See :meth:`from_episodes`; without effect on a stored data set.
        :return: The data set.
        :raises FileNotFoundError: If something is not there.
        :raises ValueError: If something is damaged or of another kind; the message names the file.
        """
        several = _several(sources)
        if len(several) == 1 and (Path(several[0]) / INDEX).is_file():
            return cls(open_storage(Path(several[0])))
        if several and all(Path(source).suffix == ".pt" for source in several):
            return cls.from_tdmpc2(several, storage=storage)
        return cls.from_minari(several, storage)

    def save(self, folder: str | Path) -> None:
        """
        Write the data set, for :meth:`load`.

        :param folder: A new or empty folder.
        :raises FileExistsError: If it holds something.
        """
        writer = StorageWriter(Path(folder))
        for task in self.data:
            for number in range(len(task.lengths)):
                writer.add(task.name, task.episode(number), f"episode {number} of {task.name}")
        writer.finish()


def _several(sources: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """:return: A list, also of a single one."""
    return [sources] if isinstance(sources, str | Path) else list(sources)
