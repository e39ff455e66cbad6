"""The pretraining loop."""

from __future__ import annotations

import dataclasses
import time
import warnings
from pathlib import Path

import torch as th
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from sb3_pwm.common.checks import check_number
from sb3_pwm.common.memory import explain_out_of_memory
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.types import TaskData, tells_nothing
from sb3_pwm.pretrain.batches import batches, task_rows
from sb3_pwm.pretrain.checkpoint import RunPaths, RunState, load_checkpoint, save_checkpoint
from sb3_pwm.pretrain.config import PretrainConfig
from sb3_pwm.pretrain.distributed import DistributedContext, join_processes
from sb3_pwm.pretrain.plots import draw_predictions
from sb3_pwm.pretrain.records import Records, training_row, validation_row
from sb3_pwm.pretrain.update import LOSSES, LossModule, update
from sb3_pwm.pretrain.validation import validate
from sb3_pwm.world_model.config import WorldModelConfig
from sb3_pwm.world_model.model import WorldModel
from sb3_pwm.world_model.normalization import fit_statistics
from sb3_pwm.world_model.reward_range import check_reward_range, fitting_bins


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
    Pretrain a world model on offline data.

    If the call is interrupted, the same call resumes it from the last checkpoint and ends with the same model. These
    files are written beside the model:

    - ``*.best.safetensors``: the model with the lowest loss on held-out episodes.
    - ``*.csv``: the losses; on held-out episodes also the errors of latent and reward after 1, ..., H steps.
    - ``*.png``: predictions along held-out episodes.
    - ``*.checkpoint.pt``: the last checkpoint. It is deleted at the end.

    :param dataset: The data. A share of the episodes is held out, see
        :meth:`~sb3_pwm.data.dataset.OfflineDataset.split`.
    :param world_model: Configuration of a new model, or a model to train further. If it has no termination head, and an
        episode of the data terminates, it gets one. The default bins of the rewards of a new model are widened where
        the data needs it.
    :param out: File of the model, ``*.safetensors``.
    :param config: Configuration of the run. None: the default configuration.
    :param checkpoint_every: Number of updates between two checkpoints. The model is validated at each.
    :param log_every: Number of updates between two rows of training losses. A row is the mean since the last one.
    :param tensorboard_log: Folder of the TensorBoard logs. None: no logs.
    :param progress_bar: Whether to show a progress bar.
    :param device: Device of the model. ``"auto"``: a GPU if there is one.
    :return: The model, on the device.
    :raises ValueError: If a number is out of range, the data does not fit the model, the checkpoint is of another run,
        or a loss is not finite.
    :raises FileExistsError: If the file of the model exists already, and there is no checkpoint to resume from.
    """
    config = config or PretrainConfig()
    check_number("checkpoint_every", checkpoint_every, 1, integer=True)
    check_number("log_every", log_every, 1, integer=True)
    files = RunPaths(out)
    if files.model.exists() and not files.checkpoint.exists():
        raise FileExistsError(f"{files.model} exists already: choose another name, or delete it.")
    context = join_processes(device)
    _check_batch_size(config, context)
    is_new = isinstance(world_model, WorldModelConfig)
    world_model = _make_world_model(world_model, dataset, config.seed).to(context.device)
    rows = task_rows(world_model, dataset)
    check_reward_range(world_model.config, dataset.reward_range, "The data set")
    training, held_out = dataset.split(config.validation_fraction, config.seed)
    _warn_of_poor_data(dataset, config.horizon)
    fit_statistics(world_model, training, new=is_new)

    optimizer = th.optim.Adam(world_model.parameters(), lr=config.learning_rate, fused=True)
    identity = {
        "config": dataclasses.asdict(config),
        "world_model": repr(world_model.config),
        "dataset": repr(dataset),
    }
    state = RunState()
    if files.checkpoint.exists():
        state = load_checkpoint(files.checkpoint, world_model, optimizer, identity, context.device)
    loss_module: nn.Module = LossModule(world_model, config)
    if context.size > 1:
        loss_module = DistributedDataParallel(loss_module)

    records = Records(state.rows, files.table, tensorboard_log if context.first else None)
    hidden = None if progress_bar and context.first else True
    bar = tqdm(total=config.steps, initial=state.step, unit="update", disable=hidden)
    sums, started = th.zeros(len(LOSSES), device=context.device), time.perf_counter()
    advice = "Lower batch_size or raise grad_accumulation_steps."
    for batch in batches(training, config, rows, state.step, context):
        with explain_out_of_memory(f"an update of {config.batch_size} sequences", advice):
            sums += update(loss_module, world_model, optimizer, batch, config, state.step)
        state.step += 1
        bar.update()
        checkpoint_is_due = state.step % checkpoint_every == 0 or state.step == config.steps
        if state.step % log_every == 0 or checkpoint_is_due:
            means = sums / (state.step - state.logged)
            row = training_row(state.step, means, config.learning_rate_at(state.step - 1), context)
            records.add(row)
            bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
            state.logged = state.step
            sums.zero_()
        if checkpoint_is_due:
            # All processes have the same model, so the first one validates for all.
            if context.first:
                row = validation_row(state.step, validate(world_model, held_out, rows, config, context.device))
                records.add(row)
                if row["loss"] < state.best:
                    state.best = row["loss"]
                    world_model.save(files.best)
                records.write_table()
                save_checkpoint(files.checkpoint, world_model, optimizer, identity, state)
            _wait_for_all(context)
    bar.close()
    if context.first:
        world_model.save(files.model)
        draw_predictions(world_model, held_out, rows, config.horizon, files.picture)
        files.checkpoint.unlink()
        names = ", ".join(path.name for path in (files.best, files.table, files.picture))
        bar.write(f"Written: {files.model} ({time.perf_counter() - started:.0f} s), {names}")
    records.close()
    _wait_for_all(context)
    return world_model


def _check_batch_size(config: PretrainConfig, context: DistributedContext) -> None:
    if config.batch_size % (context.size * config.grad_accumulation_steps):
        raise ValueError(
            f"batch_size ({config.batch_size}) must be a multiple of the number of processes ({context.size}) times "
            f"grad_accumulation_steps ({config.grad_accumulation_steps})."
        )


def _warn_of_poor_data(dataset: OfflineDataset, horizon: int) -> None:
    """Warn of tasks that no policy can be learned for, and of tasks whose episodes are all too short."""
    same_rewards = [task for task in dataset.data if tells_nothing(task.constant_reward, bool(task.terminated.any()))]
    if same_rewards:
        rewards = ", ".join(sorted({f"{task.constant_reward:g}" for task in same_rewards}))
        warnings.warn(
            f"All rewards of {_names(same_rewards)} are the same ({rewards}): the world model learns what actions lead "
            "to, but there is nothing for a policy to learn from. Give data in which episodes earn more and less."
        )
    short = [task for task in dataset.data if task.lengths.max() < horizon and not task.terminated.all()]
    if short:
        longest = int(max(task.lengths.max() for task in short))
        warnings.warn(
            f"The episodes of {_names(short)} last at most {longest} of the {horizon} steps of horizon: the world "
            f"model does not learn to predict more of them. Give longer episodes, or lower horizon to {longest}."
        )


def _names(tasks: list[TaskData], listed: int = 5) -> str:
    """:return: Names of tasks for a message."""
    others = f" and {len(tasks) - listed} other tasks" if len(tasks) > listed else ""
    return ", ".join(task.name for task in tasks[:listed]) + others


def _make_world_model(world_model: WorldModelConfig | WorldModel, dataset: OfflineDataset, seed: int) -> WorldModel:
    """:return: The model, or a new model of a configuration, with what the data needs. The random state is kept."""
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        if isinstance(world_model, WorldModelConfig):
            bins = fitting_bins(dataset.reward_range, world_model.bin_low, world_model.bin_high)
            world_model = WorldModel(dataclasses.replace(world_model, **bins))
        if dataset.has_terminations and world_model.termination_network is None:
            world_model.add_termination_head()
        return world_model


def _wait_for_all(context: DistributedContext) -> None:
    if context.size > 1:
        dist.barrier()
