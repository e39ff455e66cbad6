"""Checkpoints of a pretraining run, and the files that a run writes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch as th

from sb3_pwm.common.files import atomic_write
from sb3_pwm.world_model.model import WorldModel


class RunPaths:
    """
    Paths of the files that a run writes.

    :param out: File of the model, ``*.safetensors``.
    :raises ValueError: If the file has another suffix.
    """

    def __init__(self, out: str | Path):
        self.model = Path(out)
        """Model after the last update"""
        if self.model.suffix != ".safetensors":
            raise ValueError(f"out must end in .safetensors, got {out}.")
        self.best = self.model.with_suffix(".best.safetensors")
        """Model with the lowest loss on held-out episodes"""
        self.checkpoint = self.model.with_suffix(".checkpoint.pt")
        """Checkpoint of an unfinished run"""
        self.table = self.model.with_suffix(".csv")
        """Table of the losses"""
        self.picture = self.model.with_suffix(".png")
        """Picture of predictions along held-out episodes"""


@dataclasses.dataclass
class RunState:
    """
    State of a run, beside the parameters.

    :param step: Number of updates so far.
    :param logged: Number of updates until the last row of training losses.
    :param best: Lowest loss on held-out episodes.
    :param rows: Rows of losses, see :mod:`sb3_pwm.pretrain.records`.
    """

    step: int = 0
    logged: int = 0
    best: float = math.inf
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def save_checkpoint(
    path: Path, world_model: WorldModel, optimizer: th.optim.Optimizer, identity: dict[str, Any], state: RunState
) -> None:
    """
    Write a checkpoint atomically.

    :param path: File of the checkpoint.
    :param world_model: The world model.
    :param optimizer: Its optimizer.
    :param identity: What must be the same for a run to be resumed.
    :param state: State of the run.
    """
    content = {
        "identity": identity,
        "run": dataclasses.asdict(state),
        "world_model": world_model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_write(path) as file:
        th.save(content, file)


def load_checkpoint(
    path: Path, world_model: WorldModel, optimizer: th.optim.Optimizer, identity: dict[str, Any], device: th.device
) -> RunState:
    """
    Read a checkpoint into a world model and its optimizer.

    :param path: File of the checkpoint.
    :param world_model: The world model.
    :param optimizer: Its optimizer.
    :param identity: What must be the same for a run to be resumed.
    :param device: Device of the world model.
    :return: State of the run.
    :raises ValueError: If the file is damaged, or is of a run with another configuration, world model or data set.
    """
    try:
        content = th.load(path, map_location=device, weights_only=True)
        saved = content["identity"]
    except Exception as error:  # UnpicklingError, RuntimeError, KeyError and others, by what is wrong
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged, or is no checkpoint of a pretraining run: {reason}") from error
    for name, value in identity.items():
        if saved.get(name) != value:
            raise ValueError(
                f"{path} is of a run with another {name}: {saved.get(name)}, not {value}. Give the same again, or "
                "delete the file to start a new run."
            )
    world_model.load_state_dict(content["world_model"])
    optimizer.load_state_dict(content["optimizer"])
    return RunState(**content["run"])
