r"""
Pretrain a world model on offline data of many tasks (PWM section 4.1).

::

    python -m sb3_pwm.world_model.pretrain --dataset data/mt80 --size 5M --steps 50000 --out wm.safetensors
    torchrun --nproc-per-node 2 -m sb3_pwm.world_model.pretrain --dataset data/mt80 --size 48M --out wm.safetensors

Given again after a kill, the command goes on from its last checkpoint and ends with the same model. Beside the model
lie its best one on held-out episodes, a table of the losses and a picture of its predictions.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import io
import math
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sb3_pwm.common.files import replacing
from sb3_pwm.common.memory import explain_out_of_memory
from sb3_pwm.data.batch import SequenceBatch
from sb3_pwm.data.dataset import BALANCES, INDEX, OfflineDataset
from sb3_pwm.world_model.losses import world_model_loss
from sb3_pwm.world_model.model import ACTIVATIONS, PRESETS, WorldModel, WorldModelConfig
from sb3_pwm.world_model.open_loop import draw_predictions, open_loop_errors

CLIP = 20.0
LOSSES = ("loss", "dynamics_loss", "reward_loss", "termination_loss")
# Batches that wait for the device.
PREFETCHED = 4
VALIDATION_BATCHES = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """
    What decides the outcome of a pretraining run, beside data and model.

    :param steps: Number of updates.
    :param batch_size: Sequences per update, over all processes.
    :param horizon: Steps of a sequence, H.
    :param learning_rate: Adam's, after the warm-up.
    :param warmup_steps: Updates over which it rises linearly from zero.
    :param final_learning_rate: Where it ends, as a share of ``learning_rate``, along half a cosine; 1: no decay.
    :param rho: See :func:`~sb3_pwm.world_model.losses.world_model_loss`.
    :param balance: See :meth:`~sb3_pwm.data.dataset.OfflineDataset.sample`.
    :param accumulate: Number of parts into which a process cuts its batch, one after the other: less memory, the same
        update.
    :param precision: ``"float32"``, or ``"bfloat16"``: the networks' products under ``torch.autocast``.
    :param validation: Share of each task's episodes that is held out.
    :param seed: Decides batches and held-out episodes; the model's first weights too, where it is made here.
    :raises ValueError: If one is out of range; the message names it.
    """

    steps: int = 50_000
    batch_size: int = 256
    horizon: int = 16
    learning_rate: float = 3e-4
    warmup_steps: int = 500
    final_learning_rate: float = 0.1
    rho: float = 0.99
    balance: str = "size"
    accumulate: int = 1
    precision: str = "float32"
    validation: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, minimum in dict(steps=1, batch_size=1, horizon=1, accumulate=1, warmup_steps=0).items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {getattr(self, name)!r}.")
        for name in ("final_learning_rate", "rho"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)!r}.")
        if not self.learning_rate > 0.0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate!r}.")
        if self.balance not in BALANCES:
            raise ValueError(f"balance must be one of {BALANCES}, got {self.balance!r}.")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f'precision must be "float32" or "bfloat16", got {self.precision!r}.')

    def learning_rate_at(self, step: int) -> float:
        """:param step: Of the update, from 0. :return: Its learning rate."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        cosine = (1.0 + math.cos(math.pi * progress)) / 2.0
        return self.learning_rate * (self.final_learning_rate + (1.0 - self.final_learning_rate) * cosine)


@dataclasses.dataclass(frozen=True)
class Process:
    """
    This process among those of torchrun; alone without it.

    :param rank: Its number.
    :param size: How many there are.
    :param device: Its device.
    """

    rank: int
    size: int
    device: th.device

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0


def join_processes(device: th.device | str = "auto") -> Process:
    """
    :param device: ``"auto"``: this process's GPU where there is one, else the CPU.
    :return: This process, in torchrun's group where torchrun has started it.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    if str(device) == "auto":
        device = f"cuda:{local}" if th.cuda.is_available() else "cpu"
    device = th.device(device)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Process(0, 1, device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        th.cuda.set_device(device)
    return Process(dist.get_rank(), dist.get_world_size(), device)


class _Loss(nn.Module):
    """The loss as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, world_model: WorldModel, settings: Settings):
        super().__init__()
        self.world_model = world_model
        self.settings = settings

    def forward(self, batch: SequenceBatch) -> tuple[th.Tensor, ...]:
        with autocast(self.settings, batch.rewards.device):
            return tuple(world_model_loss(self.world_model, batch, self.settings.rho))


def autocast(settings: Settings, device: th.device) -> th.autocast:
    """:param settings: Of the run. :param device: Of its tensors. :return: The context that networks run in."""
    return th.autocast(device.type, th.bfloat16, enabled=settings.precision == "bfloat16")


def batches(
    dataset: OfflineDataset, settings: Settings, rows: th.Tensor | None, first_step: int, process: Process
) -> Iterator[SequenceBatch]:
    """
    This process's part of every update's batch, made beside the updates by a thread of its own.

    :param dataset: The data.
    :param settings: Of the run. A batch depends on the seed and its update's number only, so that a resumed run sees
        what an uninterrupted one sees, and many processes together what a single one sees.
    :param rows: Row of the world model's embedding for each task of the data; None for a model of one task.
    :param first_step: Number of the first update.
    :param process: This process.
    :return: The batches, on the process's device.
    """
    pin = process.device.type == "cuda"
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
            for step in range(first_step, settings.steps):
                if stopped.is_set():
                    return
                rng = np.random.default_rng([settings.seed, step])
                batch = dataset.sample(settings.batch_size, settings.horizon, rng, settings.balance, pin)
                put(_columns(batch, slice(process.rank, None, process.size)))
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        for _ in range(first_step, settings.steps):
            item = waiting.get()
            if isinstance(item, BaseException):
                raise item
            yield to_device(item, rows, process.device)
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


def validate(
    world_model: WorldModel, dataset: OfflineDataset, rows: th.Tensor | None, settings: Settings, device: th.device
) -> dict[str, Any]:
    """
    :param world_model: The model.
    :param dataset: Held-out data.
    :param rows: See :func:`task_rows`.
    :param settings: Of the run; the same sequences are taken each time.
    :param device: Where.
    :return: ``loss``, and ``latent_error`` and ``reward_error`` after 1, ..., H steps, lists.
    """
    results = []
    for number in range(VALIDATION_BATCHES):
        rng = np.random.default_rng([settings.seed, number, 1])
        batch = dataset.sample(min(settings.batch_size, 256), settings.horizon, rng, settings.balance)
        with autocast(settings, device):
            results.append(open_loop_errors(world_model, to_device(batch, rows, device), settings.rho))
    latent, reward, loss = (th.stack(part).float().mean(0) for part in zip(*results, strict=True))
    return {"loss": float(loss), "latent_error": latent.tolist(), "reward_error": reward.tolist()}


class Files:
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
    settings: Settings | None = None,
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
    :param settings: What decides the outcome.
    :param checkpoint_every: Updates between validations, which write checkpoints.
    :param log_every: Updates between rows of the table, each the mean of the losses since.
    :param tensorboard_log: Folder of TensorBoard logs.
    :param progress_bar: Whether to show a progress bar.
    :param device: Device; ``"auto"``: a GPU where there is one.
    :return: The model, on the device.
    :raises ValueError: If the data does not fit the model, a checkpoint is of another run, or a loss is not finite.
    :raises FileExistsError: If the model's file is there, and no checkpoint to go on from.
    """
    settings = settings or Settings()
    files = Files(out)
    process = join_processes(device)
    if files.model.exists() and not files.checkpoint.exists():
        raise FileExistsError(f"{files.model} is there already: choose another name, or delete it.")
    if settings.batch_size % (process.size * settings.accumulate):
        raise ValueError(
            f"batch_size ({settings.batch_size}) must be a multiple of the number of processes ({process.size}) times "
            f"accumulate ({settings.accumulate})."
        )
    if isinstance(world_model, WorldModelConfig):
        with th.random.fork_rng(devices=[]):
            th.manual_seed(settings.seed)
            world_model = WorldModel(world_model)
    world_model = world_model.to(process.device)
    rows = task_rows(world_model, dataset)
    training, held_out = dataset.split(settings.validation, settings.seed)

    optimizer = th.optim.Adam(world_model.parameters(), lr=settings.learning_rate, fused=True)
    run = _Run()
    identity = {"settings": dataclasses.asdict(settings), "config": repr(world_model.config), "data": repr(dataset)}
    if files.checkpoint.exists():
        run = _load_checkpoint(files.checkpoint, world_model, optimizer, identity, process.device)
    loss_module: nn.Module = _Loss(world_model, settings)
    if process.size > 1:
        loss_module = DistributedDataParallel(loss_module)

    writer = _tensorboard(tensorboard_log) if process.first and tensorboard_log is not None else None
    bar = _progress_bar(settings.steps, run.step, progress_bar and process.first)
    sums, started = th.zeros(len(LOSSES), device=process.device), time.perf_counter()
    advice = "Lower batch_size or raise accumulate."
    for batch in batches(training, settings, rows, run.step, process):
        with explain_out_of_memory(f"an update of {settings.batch_size} sequences", advice):
            sums += _update(loss_module, world_model, optimizer, batch, settings, run.step)
        run.step += 1
        bar.update()
        last = run.step == settings.steps
        if run.step % log_every == 0 or run.step % checkpoint_every == 0 or last:
            n_logged = run.step - run.logged
            row = _training_row(run.step, sums / n_logged, settings.learning_rate_at(run.step - 1), process)
            run.rows.append(row)
            run.logged = run.step
            sums.zero_()
            bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
            _write_scalars(writer, row)
        if run.step % checkpoint_every == 0 or last:
            # Every process has the same model and the same sequences: the first one's word is enough.
            if process.first:
                row = _validation_row(run.step, validate(world_model, held_out, rows, settings, process.device))
                run.rows.append(row)
                _write_scalars(writer, row)
                if row["loss"] < run.best:
                    run.best = row["loss"]
                    world_model.save(files.best)
                _write_table(files.table, run.rows)
                _save_checkpoint(files.checkpoint, world_model, optimizer, identity, run)
            if process.size > 1:
                dist.barrier()
    bar.close()
    if process.first:
        world_model.save(files.model)
        draw_predictions(world_model, held_out, rows, settings.horizon, files.picture)
        files.checkpoint.unlink()
        seconds = time.perf_counter() - started
        bar.write(
            f"Written: {files.model} ({seconds:.0f} s), {files.best.name}, {files.table.name}, {files.picture.name}"
        )
    if writer is not None:
        writer.close()
    if process.size > 1:
        dist.barrier()
    return world_model


def _update(
    loss_module: nn.Module,
    world_model: WorldModel,
    optimizer: th.optim.Optimizer,
    batch: SequenceBatch,
    settings: Settings,
    step: int,
) -> th.Tensor:
    """One update. Returns the losses, see :data:`LOSSES`."""
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate_at(step)
    optimizer.zero_grad()
    total = th.zeros(len(LOSSES), device=batch.rewards.device)
    for number in range(settings.accumulate):
        part = batch if settings.accumulate == 1 else _columns(batch, slice(number, None, settings.accumulate))
        # The processes' gradients are averaged once, with the last part's.
        several = isinstance(loss_module, DistributedDataParallel) and number < settings.accumulate - 1
        with loss_module.no_sync() if several else contextlib.nullcontext():  # type: ignore[operator]
            losses = th.stack(loss_module(part)) / settings.accumulate
            losses[0].backward()
        total += losses.detach()
    th.nn.utils.clip_grad_norm_(world_model.parameters(), CLIP)
    optimizer.step()
    if world_model.task_embedding is not None:
        # At its use only the rows that are looked up are brought back to norm 1: each process would have other rows.
        with th.no_grad():
            world_model.task_embedding.weight.renorm_(2, 0, 1.0)
    return total


def _columns(batch: SequenceBatch, columns: slice) -> SequenceBatch:
    """:return: Some of a batch's sequences."""
    task = None if batch.task is None else batch.task[columns]
    parts = {name: value[:, columns] for name, value in batch._asdict().items() if name != "task"}
    return SequenceBatch(**parts, task=task)


def _training_row(step: int, losses: th.Tensor, learning_rate: float, process: Process) -> dict[str, Any]:
    if process.size > 1:
        dist.all_reduce(losses)
        losses /= process.size
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
    with replacing(path) as file:
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
    with replacing(path) as file:
        th.save(content, file)


def _load_checkpoint(
    path: Path, world_model: WorldModel, optimizer: th.optim.Optimizer, identity: dict[str, Any], device: th.device
) -> _Run:
    """
    :return: Where the run was; its weights are in model and optimiser then.
    :raises ValueError: If the file is damaged, or of a run with other settings, data or model; the message names it.
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
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, unit="update", disable=None if shown else True)


def _tensorboard(folder: str | Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def open_data(sources: Sequence[str], tasks: Sequence[str] | None, storage: str | Path | None) -> OfflineDataset:
    """
    :param sources: Minari ids or folders, files of TD-MPC2's (.pt), or one folder that ``storage`` was.
    :param tasks: Those to keep, in this order; None: all.
    :param storage: Where to keep the data; used again where it is there already.
    :return: The data set.
    :raises FileNotFoundError: If something is not there.
    :raises ValueError: If something is damaged, or of an unknown kind.
    """
    if storage is not None and (Path(storage) / INDEX).is_file():
        dataset = OfflineDataset.open(storage)
    else:
        dataset = OfflineDataset.open_any(sources, storage)
    return dataset if tasks is None else dataset.select(tasks)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line, see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m sb3_pwm.world_model.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dataset", nargs="+", required=True, help="Minari ids or folders, TD-MPC2's .pt files, or a stored data set"
    )
    parser.add_argument("--tasks", nargs="+", help="only these of its tasks")
    parser.add_argument("--storage", type=Path, help="folder to keep the data in, memory-mapped (larger than memory)")
    parser.add_argument("--size", choices=tuple(PRESETS), default="5M", help="of the world model")
    parser.add_argument("--activation", choices=tuple(ACTIVATIONS), default="mish")
    parser.add_argument("--init", type=Path, help="a world model to go on from, in place of a new one")
    parser.add_argument("--out", type=Path, required=True, help="the model's file, *.safetensors")
    for field in dataclasses.fields(Settings):
        kind = {"int": int, "float": float, "str": str}[str(field.type)]
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--checkpoint-every", type=int, default=1_000)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--tensorboard-log", type=Path)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    try:
        settings = Settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Settings)})
        Files(options.out)
        dataset = open_data(options.dataset, options.tasks, options.storage)
        world_model: WorldModel | WorldModelConfig
        if options.init is not None:
            world_model = WorldModel.load(options.init)
        else:
            terminates = any(task.terminated.any() for task in dataset.data)
            world_model = WorldModelConfig.preset(
                options.size,
                observation_dim=dataset.observation_dim,
                action_dim=dataset.action_dim,
                tasks=dataset.tasks,
                termination=bool(terminates),
                activation=options.activation,
            )
        if int(os.environ.get("RANK", 0)) == 0:
            print(dataset)
        pretrain(
            dataset,
            world_model,
            options.out,
            settings,
            options.checkpoint_every,
            options.log_every,
            options.tensorboard_log,
            device=options.device,
        )
    except (ValueError, OSError, ImportError, MemoryError) as error:
        raise SystemExit(f"error: {error}") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
