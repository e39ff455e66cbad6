"""Batches of a pretraining run. A thread makes them while the device computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import numpy as np
import torch as th

from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.pretrain.config import PretrainConfig
from sb3_pwm.pretrain.distributed import DistributedContext
from sb3_pwm.world_model.model import WorldModel

# Number of batches that are made in advance
PREFETCHED = 4


def batches(
    dataset: OfflineDataset,
    config: PretrainConfig,
    rows: th.Tensor | None,
    first_step: int,
    context: DistributedContext,
) -> Iterator[SequenceBatch]:
    """
    Make the batch of every update. Each process gets its part of the batch.

    A batch depends only on the seed and the index of the update. A resumed run therefore gets the same batches as an
    uninterrupted one, and several processes together get the batch that a single process gets.

    :param dataset: The data.
    :param config: Configuration of the run.
    :param rows: Task indices of the world model, see :func:`task_rows`.
    :param first_step: Index of the first update.
    :param context: Place of this process among the processes of the run.
    :return: Iterator of the batches, on the device of this process.
    """
    pin = context.device.type == "cuda"
    waiting: queue.Queue[SequenceBatch | BaseException] = queue.Queue(PREFETCHED)
    stopped = threading.Event()

    def put(item: SequenceBatch | BaseException) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for step in range(first_step, config.steps):
                if stopped.is_set():
                    return
                rng = np.random.default_rng([config.seed, step])
                batch = dataset.sample(
                    config.batch_size, config.horizon, rng, config.balance, pin, config.ends_fraction
                )
                put(columns_of(batch, slice(context.rank, None, context.size)))
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        for _ in range(first_step, config.steps):
            item = waiting.get()
            if isinstance(item, BaseException):
                raise item
            yield to_device(item, rows, context.device)
    finally:
        stopped.set()
        thread.join()


def to_device(batch: SequenceBatch, rows: th.Tensor | None, device: th.device) -> SequenceBatch:
    """
    Move a batch to a device.

    :param batch: Batch of a data set.
    :param rows: Task indices of the world model, see :func:`task_rows`.
    :param device: The device.
    :return: The batch on the device, with the task indices of the world model.
    """
    task = None if rows is None else rows[batch.task].to(device, non_blocking=True)
    extra = batch.representative
    representative = None if extra is None else extra.to(device, non_blocking=True)
    return _make_batch([part.to(device, non_blocking=True) for part in batch[:5]], task, representative)


def task_rows(world_model: WorldModel, dataset: OfflineDataset) -> th.Tensor | None:
    """
    Look up the tasks of a data set in a world model.

    :param world_model: The world model.
    :param dataset: The data set.
    :return: Task index of the world model for each task of the data set. None if the world model is single-task.
    :raises ValueError: If the world model lacks a task, or its observations or actions are smaller.
    """
    config = world_model.config
    for name in ("observation_dim", "action_dim"):
        needed, present = getattr(dataset, name), getattr(config, name)
        if needed > present:
            raise ValueError(
                f"The data set has {name} {needed}, the world model {present}: make the world model at least as large."
            )
    if not config.tasks:
        if len(dataset.tasks) > 1:
            raise ValueError(
                f"The data set has {len(dataset.tasks)} tasks, but the world model is single-task: "
                "give WorldModelConfig(tasks=dataset.tasks)."
            )
        return None
    return th.tensor([world_model.task_index(task) for task in dataset.tasks])


def columns_of(batch: SequenceBatch, columns: slice) -> SequenceBatch:
    """
    Select sequences of a batch.

    :param batch: The batch.
    :param columns: Indices of the sequences.
    :return: Batch of these sequences.
    """
    task = None if batch.task is None else batch.task[columns]
    representative = None if batch.representative is None else batch.representative[columns]
    return _make_batch([part[:, columns] for part in batch[:5]], task, representative)


def _make_batch(tensors: list[th.Tensor], task: th.Tensor | None, representative: th.Tensor | None) -> SequenceBatch:
    """:return: Batch of observations, actions, rewards, terminations and mask, in this order."""
    observations, actions, rewards, terminations, mask = tensors
    return SequenceBatch(observations, actions, rewards, terminations, mask, task, representative=representative)
