"""Batches of a pretraining run, made in a thread beside the updates."""

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

# Number of batches that wait for the device
PREFETCHED = 4


def batches(
    dataset: OfflineDataset,
    config: PretrainConfig,
    rows: th.Tensor | None,
    first_step: int,
    context: DistributedContext,
) -> Iterator[SequenceBatch]:
    """
    This context's part of every update's batch, made beside the updates by a thread of its own.

    :param dataset: The data.
    :param config: Of the run. A batch depends on the seed and its update's number only, so that a resumed run sees
        what an uninterrupted one sees, and many processes together what a single one sees.
    :param rows: Row of the world model's embedding for each task of the data; None for a model of one task.
    :param first_step: Number of the first update.
    :param context: This context.
    :return: The batches, on the context's device.
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
                batch = dataset.sample(config.batch_size, config.horizon, rng, config.balance, pin)
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
    :param batch: Of an :class:`~sb3_pwm.data.dataset.OfflineDataset`.
    :param rows: See :func:`batches`.
    :param device: Where to.
    :return: The batch there, its tasks counted as the world model counts them.
    """
    task = None if rows is None else rows[batch.task].to(device, non_blocking=True)
    parts = {name: value.to(device, non_blocking=True) for name, value in batch._asdict().items() if name != "task"}
    return SequenceBatch(**parts, task=task)


def task_rows(world_model: WorldModel, dataset: OfflineDataset) -> th.Tensor | None:
    """
    :param world_model: The model.
    :param dataset: The data.
    :return: Row of the model's embedding for each task of the data; None for a model of one task.
    :raises ValueError: If the data does not fit the model; the message says in what.
    """
    config = world_model.config
    for name in ("observation_dim", "action_dim"):
        theirs, ours = getattr(dataset, name), getattr(config, name)
        if theirs > ours:
            raise ValueError(f"The data set has {name} {theirs}, the world model {ours}: make it at least as large.")
    if not config.tasks:
        if len(dataset.tasks) > 1:
            raise ValueError(
                f"The data set has {len(dataset.tasks)} tasks, the world model is of one: "
                "give WorldModelConfig(tasks=dataset.tasks)."
            )
        return None
    return th.tensor([world_model.task_index(task) for task in dataset.tasks])


def columns_of(batch: SequenceBatch, columns: slice) -> SequenceBatch:
    """:return: Some of a batch's sequences."""
    task = None if batch.task is None else batch.task[columns]
    parts = {name: value[:, columns] for name, value in batch._asdict().items() if name != "task"}
    return SequenceBatch(**parts, task=task)
