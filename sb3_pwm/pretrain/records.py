"""Records of a pretraining run: rows of losses, in a table and in TensorBoard."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter

from sb3_pwm.common.files import atomic_write
from sb3_pwm.pretrain.distributed import DistributedContext
from sb3_pwm.pretrain.update import LOSSES

Row = dict[str, Any]
"""Values of one step of a run, by the name of the column"""


class Records:
    """
    Rows of losses.

    :param rows: Rows of the run until now. New rows are appended to the list.
    :param table: CSV file of the rows.
    :param tensorboard_log: Folder of the TensorBoard logs. None: no logs.
    """

    def __init__(self, rows: list[Row], table: Path, tensorboard_log: str | Path | None):
        self.rows = rows
        self.table = table
        self._writer = None if tensorboard_log is None else SummaryWriter(str(tensorboard_log))

    def add(self, row: Row) -> None:
        """
        Add a row, and write it to TensorBoard.

        :param row: The row.
        """
        self.rows.append(row)
        if self._writer is not None:
            for name, value in row.items():
                if name not in ("step", "data"):
                    self._writer.add_scalar(f"{row['data']}/{name}", value, row["step"])

    def write_table(self) -> None:
        """Write all rows to the CSV file."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        with atomic_write(self.table) as file:
            file.write(text.getvalue().encode())

    def close(self) -> None:
        """Close the TensorBoard logs."""
        if self._writer is not None:
            self._writer.close()


def training_row(step: int, losses: th.Tensor, learning_rate: float, context: DistributedContext) -> Row:
    """
    Make the row of training losses. All processes must call it.

    :param step: Number of updates so far.
    :param losses: Mean losses of this process since the last row, see :data:`~sb3_pwm.pretrain.update.LOSSES`.
    :param learning_rate: Learning rate of the last update.
    :param context: Place of this process among the processes of the run.
    :return: The row, with the mean over the processes.
    :raises ValueError: If a loss is not finite.
    """
    if context.size > 1:
        dist.all_reduce(losses)
        losses /= context.size
    values = losses.tolist()
    if not np.isfinite(values).all():
        raise ValueError(
            f"The loss of the world model is not finite at update {step}: lower learning_rate, or check the scale of "
            "observations and rewards. The last checkpoint is not affected."
        )
    row: Row = {"step": step, "data": "training", "learning_rate": learning_rate}
    return row | dict(zip(LOSSES, values, strict=True))


def validation_row(step: int, result: dict[str, Any]) -> Row:
    """
    Make the row of errors on held-out episodes.

    :param step: Number of updates so far.
    :param result: Result of :func:`~sb3_pwm.pretrain.validation.validate`.
    :return: The row.
    """
    row: Row = {"step": step, "data": "validation", "loss": result["loss"]}
    for name in ("latent_error", "reward_error"):
        row |= {f"{name}_{number}": value for number, value in enumerate(result[name], 1)}
    return row
