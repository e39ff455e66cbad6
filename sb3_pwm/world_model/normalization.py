"""Statistics of the observations of a data set, for world models that normalize observations."""

import numpy as np
import torch as th
from numpy.typing import NDArray

from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.types import TaskData
from sb3_pwm.world_model.model import WorldModel

# Enough for the mean and the spread of anything, and little to read of a data set that lies on a disk.
MAX_ROWS = 200_000


def fit_statistics(world_model: WorldModel, dataset: OfflineDataset, new: bool = False) -> None:
    """
    Set the statistics of the observations of tasks that have none yet. Other tasks keep theirs.

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
            values = _observations(data).astype(np.float64)
            row = world_model.task_index(task) if task else 0
            mean, std = (th.as_tensor(value, dtype=th.float32) for value in (values.mean(0), values.std(0)))
            world_model.statistics.set(mean, std, float(len(values)), row)


def _observations(data: TaskData) -> NDArray[np.float32]:
    """:return: Observations of all episodes, or of evenly spaced ones if there are very many."""
    every = max(1, -(-int((data.lengths + 1).sum()) // MAX_ROWS))
    return np.concatenate([data.episode(number).observations for number in range(0, len(data.lengths), every)])
