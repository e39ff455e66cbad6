"""Statistics of the observations of a data set, for world models that normalize observations."""

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_pwm.common.outliers import ObservationSummary, summarize, warn_of_outliers
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.types import TaskData
from sb3_pwm.world_model.model import WorldModel

# Enough for the mean and the spread of anything, and little to read of a data set that lies on a disk.
MAX_ROWS = 200_000


def fit_statistics(world_model: WorldModel, dataset: OfflineDataset, new: bool = False) -> None:
    """
    Set the statistics of the observations of tasks that have none yet. Other tasks keep theirs.

    Outliers are left out, with a warning.

    :param world_model: The world model. Nothing happens if it does not normalize observations.
    :param dataset: Data with the tasks.
    :param new: Whether the model has not been trained. If not, and no task of it has statistics, it has learned from
        observations as they are, and nothing happens.
    """
    if world_model.statistics is None or not (new or world_model.statistics.count.any()):
        return
    for task in world_model.tasks_without_statistics:
        if not world_model.config.tasks or task in dataset.tasks:
            data = dataset.task_data(task) if task else dataset.data[0]
            summary = summarize(_observations(data))
            warn_of_outliers(summary, f"The data of {data.name}")
            set_statistics(world_model, summary, world_model.task_index(task) if task else 0)


def set_statistics(world_model: WorldModel, summary: ObservationSummary, row: int = 0) -> None:
    """
    Set the statistics of the observations of a task.

    :param world_model: A world model that normalizes observations.
    :param summary: Statistics of the observations.
    :param row: Index of the task; 0 in a single-task model.
    """
    assert world_model.statistics is not None
    mean, std = (th.as_tensor(value, dtype=th.float32) for value in (summary.mean, summary.std))
    world_model.statistics.set(mean, std, float(summary.n_rows), row)


def _observations(data: TaskData) -> NDArray[np.float32]:
    """
    :return: Observations of all episodes, or of some that are drawn at random if there are very many. (Every n-th one
        would be wrong where behaviors take turns in the data.)
    """
    episodes = np.random.default_rng(0).permutation(len(data.lengths))
    n_rows = np.cumsum(data.lengths[episodes] + 1)
    drawn = np.sort(episodes[: int(np.searchsorted(n_rows, MAX_ROWS)) + 1])
    return np.concatenate([data.episode(number).observations for number in drawn.tolist()])
