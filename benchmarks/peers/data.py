"""Episodes of one task as the flat arrays that d3rlpy reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sb3_pwm import OfflineDataset
from sb3_pwm.data.types import TaskData


class Arrays(NamedTuple):
    """Consecutive episodes. The names are those of the arguments of ``d3rlpy.dataset.MDPDataset``."""

    observations: NDArray[np.float32]
    """Observations ``(rows, O)``"""
    actions: NDArray[np.float32]
    """Actions ``(rows, A)`` in [-1, 1]"""
    rewards: NDArray[np.float32]
    """Rewards ``(rows,)``"""
    terminals: NDArray[np.float32]
    """``(rows,)``, one in the last row of an episode that terminated"""
    timeouts: NDArray[np.float32]
    """``(rows,)``, one in the last row of an episode that was truncated"""


def load_task(sources: Sequence[str], task: str | None = None) -> TaskData:
    """
    Load the data of one task.

    :param sources: A replay buffer of SB3 (``.pkl``), or what ``OfflineDataset.load`` takes.
    :param task: Name of the task. None: the only one.
    :return: Episodes of the task.
    :raises ValueError: If there is no such task, or there are several and none is named.
    """
    if any(source.endswith(".pkl") for source in sources):
        if len(sources) > 1:
            raise ValueError(f"--data takes one replay buffer, got {len(sources)} sources.")
        return OfflineDataset.from_replay_buffer(sources[0], task or "task").data[0]
    dataset = OfflineDataset.load(list(sources))
    if task is None and len(dataset.tasks) > 1:
        raise ValueError(f"Choose one task with --task: the data has {', '.join(dataset.tasks)}.")
    return dataset.task_data(task or dataset.tasks[0])


def best_episodes(data: TaskData, fraction: float) -> TaskData:
    """
    Select the episodes with the highest returns.

    :param data: Episodes of a task.
    :param fraction: Share of the episodes, above 0 and up to 1.
    :return: The best episodes in the order of the data, at least one.
    """
    count = max(1, round(fraction * len(data.lengths)))
    return data.subset(np.sort(np.argsort(data.returns, kind="stable")[-count:]))


def to_arrays(data: TaskData) -> Arrays:
    """
    Make flat arrays of episodes.

    d3rlpy never samples the last row of a truncated episode: the row is only the next observation of the row above. A
    truncated episode therefore gets a row more than it has steps, with its last observation. An episode that terminated
    does not, because its last next observation has no value.

    :param data: Episodes of a task.
    :return: The arrays.
    """
    parts = []
    for number in range(len(data.lengths)):
        observations, actions, rewards, terminated = data.episode(number)
        rows = len(actions) + (not terminated)
        padding = rows - len(actions)
        end = np.zeros(rows, np.float32)
        end[-1] = 1.0
        parts.append(
            Arrays(
                observations[:rows],
                np.pad(actions, ((0, padding), (0, 0))),
                np.pad(rewards, (0, padding)),
                end * terminated,
                end * (not terminated),
            )
        )
    return Arrays(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
