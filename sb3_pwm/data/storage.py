"""Storage of offline data sets: in memory, or in plain files that are memory-mapped."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sb3_pwm.common.files import atomic_write
from sb3_pwm.data.cleaning import ROUNDING
from sb3_pwm.data.types import Episode, TaskData

INDEX = "index.json"
"""Name of the file that makes a folder a stored data set"""
FORMAT = "sb3_pwm.offline_dataset"
"""Name of the storage format, in the index"""
ARRAYS = ("observations", "actions", "rewards")


def rows(episode: Episode) -> dict[str, NDArray[np.float32]]:
    """
    Convert an episode to rows of :class:`~sb3_pwm.data.types.TaskData`.

    :param episode: Episode of T steps.
    :return: Arrays of T + 1 rows, by name.
    """
    last_action = np.zeros((1, episode.actions.shape[1]), np.float32)
    return {
        "observations": np.ascontiguousarray(episode.observations, np.float32),
        "actions": np.concatenate([episode.actions, last_action]).astype(np.float32),
        "rewards": np.append(episode.rewards, 0.0).astype(np.float32),
    }


class _Table:
    """Dimensions of a task, and lengths and ends of the episodes that were added so far."""

    def __init__(self, name: str, episode: Episode):
        self.name = name
        self.dimensions = (episode.observations.shape[1], episode.actions.shape[1])
        self.lengths: list[int] = []
        self.terminated: list[bool] = []

    def add(self, episode: Episode, where: str) -> None:
        """:raises ValueError: If the dimensions of the episode are not those of the first one."""
        dimensions = (episode.observations.shape[1], episode.actions.shape[1])
        if dimensions != self.dimensions:
            raise ValueError(
                f"{where} has observations of {dimensions[0]} and actions of {dimensions[1]} numbers; earlier episodes "
                f"of {self.name} have {self.dimensions[0]} and {self.dimensions[1]}."
            )
        self.lengths.append(len(episode.rewards))
        self.terminated.append(episode.terminated)

    def data(self, arrays: dict[str, NDArray[np.float32]]) -> TaskData:
        """:return: Data of the task, in these arrays."""
        return make_task_data(self.name, arrays, np.array(self.lengths), np.array(self.terminated))


def make_task_data(
    name: str, arrays: dict[str, NDArray[np.float32]], lengths: NDArray[np.int64], terminated: NDArray[np.bool_]
) -> TaskData:
    """
    Make the data of a task whose episodes follow one another in its arrays.

    :param name: Name of the task.
    :param arrays: Arrays of all rows, by name.
    :param lengths: Number of steps of each episode, ``(E,)``.
    :param terminated: Whether each episode terminated, ``(E,)``.
    :return: Data of the task.
    """
    first = np.cumsum(lengths + 1) - (lengths + 1)
    return TaskData(name, first=first, lengths=lengths, terminated=terminated, **arrays)


class MemoryWriter:
    """Collect episodes in memory."""

    def __init__(self) -> None:
        self.tables: dict[str, _Table] = {}
        self.parts: dict[str, dict[str, list[NDArray[np.float32]]]] = {}

    def add(self, task: str, episode: Episode, where: str) -> None:
        """
        Add an episode.

        :param task: Name of the task.
        :param episode: The episode.
        :param where: File and number of the episode, for messages.
        :raises ValueError: If its dimensions are not those of the task's first episode.
        """
        table = self.tables.setdefault(task, _Table(task, episode))
        table.add(episode, where)
        parts = self.parts.setdefault(task, {name: [] for name in ARRAYS})
        for name, value in rows(episode).items():
            parts[name].append(value)

    def finish(self) -> list[TaskData]:
        """:return: Data of all tasks."""
        data = []
        for task, table in self.tables.items():
            data.append(table.data({name: np.concatenate(part) for name, part in self.parts.pop(task).items()}))
        return data


class StorageWriter:
    """
    Write episodes to a folder, one at a time. The folder is a data set as soon as its index is written, at the end.

    :param folder: A new or empty folder.
    :param sources: What the episodes are read from, see :mod:`sb3_pwm.data.sources`. None: not known.
    :raises FileExistsError: If the folder is not empty.
    """

    def __init__(self, folder: Path, sources: list[dict[str, Any]] | None = None):
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty: choose another folder, or delete it.")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.sources = sources
        self.tables: dict[str, _Table] = {}
        self.files: dict[str, dict[str, IO[bytes]]] = {}

    def add(self, task: str, episode: Episode, where: str) -> None:
        """
        Add an episode.

        :param task: Name of the task.
        :param episode: The episode.
        :param where: File and number of the episode, for messages.
        :raises ValueError: If its dimensions are not those of the task's first episode.
        """
        if task not in self.tables:
            number = len(self.tables)
            self.tables[task] = _Table(task, episode)
            self.files[task] = {name: _file(self.folder, number, name).open("wb") for name in ARRAYS}
        self.tables[task].add(episode, where)
        for name, value in rows(episode).items():
            self.files[task][name].write(value.tobytes())

    def finish(self) -> list[TaskData]:
        """:return: Data of all tasks, memory-mapped."""
        for files in self.files.values():
            for file in files.values():
                file.close()
        index = []
        for number, table in enumerate(self.tables.values()):
            lengths, terminated = np.array(table.lengths, np.int64), np.array(table.terminated, bool)
            np.savez(_file(self.folder, number, "episodes"), lengths=lengths, terminated=terminated)
            dimensions = dict(zip(("observation_dim", "action_dim"), table.dimensions, strict=True))
            index.append({"name": table.name, "rows": int((lengths + 1).sum()), **dimensions})
        content = {"format": FORMAT, "checked": True, "sources": self.sources, "tasks": index}
        with atomic_write(self.folder / INDEX) as file:
            file.write(json.dumps(content).encode())
        return open_storage(self.folder)


def _file(folder: Path, number: int, name: str) -> Path:
    return folder / f"{number:03d}-{name}.{'npz' if name == 'episodes' else 'f32'}"


def read_index(folder: Path) -> dict[str, Any]:
    """
    Read the index of a stored data set.

    :param folder: Folder that :class:`StorageWriter` has written.
    :return: Dictionary with the keys ``tasks`` and, if it is not of an older version, ``sources`` and ``checked``.
    :raises FileNotFoundError: If the folder has no index.
    :raises ValueError: If the index is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"There is no data set in {folder}: it has no {INDEX}.")
    try:
        index: Any = json.loads(path.read_text(encoding="utf-8"))
        tasks = index["tasks"] if index["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or was written by another program: {error!r}.") from error
    if tasks is None:
        raise ValueError(f"{path} has the format {index['format']!r}, not {FORMAT!r}: another program wrote it.")
    return index  # type: ignore[no-any-return]


def open_storage(folder: Path) -> list[TaskData]:
    """
    Open a folder that :class:`StorageWriter` has written.

    :param folder: The folder.
    :return: Data of all tasks, memory-mapped.
    :raises FileNotFoundError: If the folder has no index.
    :raises ValueError: If a file is damaged, its size is not the one in the index, or actions are not in [-1, 1]. The
        message names the file.
    """
    index = read_index(folder)
    data = []
    for number, task in enumerate(index["tasks"]):
        n_rows = task["rows"]
        shapes = {
            "observations": (n_rows, task["observation_dim"]),
            "actions": (n_rows, task["action_dim"]),
            "rewards": (n_rows,),
        }
        arrays = {name: _map(_file(folder, number, name), shape) for name, shape in shapes.items()}
        if not index.get("checked"):  # an older version has written it
            _check_actions(arrays["actions"], _file(folder, number, "actions"))
        episodes = _file(folder, number, "episodes")
        try:
            with np.load(episodes, allow_pickle=False) as table:
                lengths, terminated = table["lengths"], table["terminated"]
        except Exception as error:  # zipfile, zlib, numpy or KeyError, by where the file is damaged
            raise ValueError(f"{episodes} is damaged: {error}.") from error
        if (lengths + 1).sum() != n_rows:
            raise ValueError(f"{episodes} has episodes of {(lengths + 1).sum()} rows, but {INDEX} says {n_rows}.")
        data.append(make_task_data(task["name"], arrays, lengths, terminated))
    return data


def _check_actions(actions: NDArray[np.float32], path: Path) -> None:
    """:raises ValueError: If an action is not in [-1, 1]."""
    largest = max(float(actions.max()), -float(actions.min()))  # no array of absolute values, which may not fit
    if not largest <= 1.0 + ROUNDING:
        raise ValueError(
            f"The actions in {path} must lie in [-1, 1], got {largest:g}: make the data set anew, with actions that "
            "are scaled by the bounds of the action space."
        )


def _map(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    expected = 4 * int(np.prod(shape))
    if not path.is_file() or path.stat().st_size != expected:
        size = path.stat().st_size if path.is_file() else 0
        raise ValueError(f"{path} is missing or cut short: it has {size} of {expected} bytes.")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):  # sequences are drawn at random places: reading ahead is wasted
        mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, np.float32).reshape(shape)
