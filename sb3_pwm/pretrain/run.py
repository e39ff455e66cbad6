"""The pretraining loop: updates, validation, checkpoints and what a run writes."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from sb3_pwm.common.files import atomic_write
from sb3_pwm.common.memory import explain_out_of_memory
from sb3_pwm.common.precision import autocast
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.pretrain.batches import batches, columns_of, task_rows
from sb3_pwm.pretrain.config import PretrainConfig
from sb3_pwm.pretrain.distributed import DistributedContext, join_processes
from sb3_pwm.pretrain.plots import draw_predictions
from sb3_pwm.pretrain.validation import validate
from sb3_pwm.world_model.losses import world_model_loss
from sb3_pwm.world_model.model import WorldModel, WorldModelConfig

CLIP = 20.0
LOSSES = ("loss", "dynamics_loss", "reward_loss", "termination_loss")


class _Loss(nn.Module):
    """The loss as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, world_model: WorldModel, config: PretrainConfig):
        super().__init__()
        self.world_model = world_model
        self.config = config

    def forward(self, batch: SequenceBatch) -> tuple[th.Tensor, ...]:
        with autocast(batch.rewards.device, self.config.precision):
            return tuple(world_model_loss(self.world_model, batch, self.config.rho))


class RunPaths:
    """
    Where a run writes.

    :param out: The model, ``*.safetensors``.
    :raises ValueError: If it has another ending.
    """

    def __init__(self, out: str | Path):
        self.model = Path(out)
        if self.model.suffix != ".safetensors":
            raise ValueError(f"out must end in .safetensors, got {out}.")
        self.best = self.model.with_suffix(".best.safetensors")
        self.checkpoint = self.model.with_suffix(".checkpoint.pt")
        self.table = self.model.with_suffix(".csv")
        self.picture = self.model.with_suffix(".png")


@dataclasses.dataclass
class _Run:
    """What a checkpoint holds, beside weights."""

    step: int = 0
    logged: int = 0
    best: float = math.inf
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def pretrain(
    dataset: OfflineDataset,
    world_model: WorldModelConfig | WorldModel,
    out: str | Path,
    config: PretrainConfig | None = None,
    checkpoint_every: int = 1_000,
    log_every: int = 100,
    tensorboard_log: str | Path | None = None,
    progress_bar: bool = True,
    device: th.device | str = "auto",
) -> WorldModel:
    """
    Fit a world model to offline data.

    :param dataset: The data; :meth:`~sb3_pwm.data.dataset.OfflineDataset.split` holds episodes out of it.
    :param world_model: The configuration of a new model, or one to go on from.
    :param out: The model's file, ``*.safetensors``. Beside it: ``*.best.safetensors``, the one with the lowest loss on
        held-out episodes; ``*.csv``, the losses; ``*.png``, predictions along held-out episodes; and, until the run
        ends, ``*.checkpoint.pt``, from which it goes on when it is called again.
    :param config: What decides the outcome.
    :param checkpoint_every: Updates between validations, which write checkpoints.
    :param log_every: Updates between rows of the table, each the mean of the losses since.
    :param tensorboard_log: Folder of TensorBoard logs.
    :param progress_bar: Whether to show a progress bar.
    :param device: Device; ``"auto"``: a GPU where there is one.
    :return: The model, on the device.
    :raises ValueError: If the data does not fit the model, a checkpoint is of another run, or a loss is not finite.
    :raises FileExistsError: If the model's file is there, and no checkpoint to go on from.
    """
    config = config or PretrainConfig()
    files = RunPaths(out)
    context = join_processes(device)
    if files.model.exists() and not files.checkpoint.exists():
        raise FileExistsError(f"{files.model} is there already: choose another name, or delete it.")
    if config.batch_size % (context.size * config.grad_accumulation_steps):
        raise ValueError(
            f"batch_size ({config.batch_size}) must be a multiple of the number of processes ({context.size}) times "
            f"grad_accumulation_steps ({config.grad_accumulation_steps})."
        )
    if isinstance(world_model, WorldModelConfig):
        with th.random.fork_rng(devices=[]):
            th.manual_seed(config.seed)
            world_model = WorldModel(world_model)
    world_model = world_model.to(context.device)
    rows = task_rows(world_model, dataset)
    training, held_out = dataset.split(config.validation_fraction, config.seed)

    optimizer = th.optim.Adam(world_model.parameters(), lr=config.learning_rate, fused=True)
    run = _Run()
    identity = {
        "config": dataclasses.asdict(config),
        "world_model": repr(world_model.config),
        "dataset": repr(dataset),
    }
    if files.checkpoint.exists():
        run = _load_checkpoint(files.checkpoint, world_model, optimizer, identity, context.device)
    loss_module: nn.Module = _Loss(world_model, config)
    if context.size > 1:
        loss_module = DistributedDataParallel(loss_module)

    writer = _tensorboard(tensorboard_log) if context.first and tensorboard_log is not None else None
    bar = _progress_bar(config.steps, run.step, progress_bar and context.first)
    sums, started = th.zeros(len(LOSSES), device=context.device), time.perf_counter()
    advice = "Lower batch_size or raise grad_accumulation_steps."
    for batch in batches(training, config, rows, run.step, context):
        with explain_out_of_memory(f"an update of {config.batch_size} sequences", advice):
            sums += _update(loss_module, world_model, optimizer, batch, config, run.step)
        run.step += 1
        bar.update()
        last = run.step == config.steps
        if run.step % log_every == 0 or run.step % checkpoint_every == 0 or last:
            n_logged = run.step - run.logged
            row = _training_row(run.step, sums / n_logged, config.learning_rate_at(run.step - 1), context)
            run.rows.append(row)
            run.logged = run.step
            sums.zero_()
            bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
            _write_scalars(writer, row)
        if run.step % checkpoint_every == 0 or last:
            # Every process has the same model and the same sequences: the first one's word is enough.
            if context.first:
                row = _validation_row(run.step, validate(world_model, held_out, rows, config, context.device))
                run.rows.append(row)
                _write_scalars(writer, row)
                if row["loss"] < run.best:
                    run.best = row["loss"]
                    world_model.save(files.best)
                _write_table(files.table, run.rows)
                _save_checkpoint(files.checkpoint, world_model, optimizer, identity, run)
            if context.size > 1:
                dist.barrier()
    bar.close()
    if context.first:
        world_model.save(files.model)
        draw_predictions(world_model, held_out, rows, config.horizon, files.picture)
        files.checkpoint.unlink()
        seconds = time.perf_counter() - started
        bar.write(
            f"Written: {files.model} ({seconds:.0f} s), {files.best.name}, {files.table.name}, {files.picture.name}"
        )
    if writer is not None:
        writer.close()
    if context.size > 1:
        dist.barrier()
    return world_model


def _update(
    loss_module: nn.Module,
    world_model: WorldModel,
    optimizer: th.optim.Optimizer,
    batch: SequenceBatch,
    config: PretrainConfig,
    step: int,
) -> th.Tensor:
    """One update. Returns the losses, see :data:`LOSSES`."""
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate_at(step)
    optimizer.zero_grad()
    total = th.zeros(len(LOSSES), device=batch.rewards.device)
    n_parts = config.grad_accumulation_steps
    for number in range(n_parts):
        part = columns_of(batch, slice(number, None, n_parts)) if n_parts > 1 else batch
        # The processes' gradients are averaged once, with the last part's.
        several = isinstance(loss_module, DistributedDataParallel) and number < n_parts - 1
        with loss_module.no_sync() if several else contextlib.nullcontext():  # type: ignore[operator]
            losses = th.stack(loss_module(part)) / n_parts
            losses[0].backward()
        total += losses.detach()
    th.nn.utils.clip_grad_norm_(world_model.parameters(), CLIP)
    optimizer.step()
    if world_model.task_embedding is not None:
        # At its use only the rows that are looked up are brought back to norm 1: each context would have other rows.
        with th.no_grad():
            world_model.task_embedding.weight.renorm_(2, 0, 1.0)
    return total


def _training_row(step: int, losses: th.Tensor, learning_rate: float, context: DistributedContext) -> dict[str, Any]:
    if context.size > 1:
        dist.all_reduce(losses)
        losses /= context.size
    values = losses.tolist()
    if not np.isfinite(values).all():
        raise ValueError(
            f"The loss of the world model is not finite at update {step}: lower learning_rate, or check the scale of "
            "observations and rewards. The last checkpoint is whole."
        )
    row: dict[str, Any] = {"step": step, "data": "training", "learning_rate": learning_rate}
    return row | dict(zip(LOSSES, values, strict=True))


def _validation_row(step: int, result: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"step": step, "data": "validation", "loss": result["loss"]}
    for name in ("latent_error", "reward_error"):
        row |= {f"{name}_{number}": value for number, value in enumerate(result[name], 1)}
    return row


def _write_scalars(writer: Any, row: dict[str, Any]) -> None:
    """A row to TensorBoard."""
    if writer is not None:
        for name, value in row.items():
            if name not in ("step", "data"):
                writer.add_scalar(f"{row['data']}/{name}", value, row["step"])


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _save_checkpoint(
    path: Path, world_model: WorldModel, optimizer: th.optim.Optimizer, identity: dict[str, Any], run: _Run
) -> None:
    content = {
        "identity": identity,
        "run": dataclasses.asdict(run),
        "world_model": world_model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_write(path) as file:
        th.save(content, file)


def _load_checkpoint(
    path: Path, world_model: WorldModel, optimizer: th.optim.Optimizer, identity: dict[str, Any], device: th.device
) -> _Run:
    """
    :return: Where the run was; its weights are in model and optimizer then.
    :raises ValueError: If the file is damaged, or of a run with other config, data or model; the message names it.
    """
    try:
        content = th.load(path, map_location=device, weights_only=True)
        theirs = content["identity"]
    except Exception as error:  # UnpicklingError, RuntimeError, KeyError, ... by where the file is odd
        raise ValueError(f"{path} is no whole checkpoint of a pretraining run: {error}") from error
    for name, value in identity.items():
        if theirs.get(name) != value:
            raise ValueError(
                f"{path} is of a run with other {name}: {theirs.get(name)}, not {value}. Give the same again, or "
                "delete it to start anew."
            )
    world_model.load_state_dict(content["world_model"])
    optimizer.load_state_dict(content["optimizer"])
    return _Run(**content["run"])


def _progress_bar(total: int, initial: int, shown: bool) -> Any:
    return tqdm(total=total, initial=initial, unit="update", disable=None if shown else True)


def _tensorboard(folder: str | Path) -> Any:
    return SummaryWriter(str(folder))
