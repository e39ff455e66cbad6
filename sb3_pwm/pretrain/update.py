"""One update of a world model."""

from __future__ import annotations

import contextlib

import torch as th
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sb3_pwm.common.precision import autocast
from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.pretrain.batches import columns_of
from sb3_pwm.pretrain.config import PretrainConfig
from sb3_pwm.world_model.losses import world_model_loss
from sb3_pwm.world_model.model import WorldModel

MAX_GRAD_NORM = 20.0
LOSSES = ("loss", "dynamics_loss", "reward_loss", "termination_loss", "behavior_loss")
"""Names of the values that an update returns"""


class LossModule(nn.Module):
    """
    The world-model loss as a module, because DistributedDataParallel wraps modules only.

    :param world_model: The world model.
    :param config: Configuration of the run.
    """

    def __init__(self, world_model: WorldModel, config: PretrainConfig):
        super().__init__()
        self.world_model = world_model
        self.config = config

    def forward(self, batch: SequenceBatch) -> tuple[th.Tensor, ...]:
        """
        Compute the loss.

        :param batch: The sequences.
        :return: The loss and its parts, see :data:`LOSSES`.
        """
        with autocast(batch.rewards.device, self.config.precision, self.world_model.config.mlp_dim):
            return tuple(world_model_loss(self.world_model, batch, self.config.rho))


def update(
    loss_module: nn.Module,
    world_model: WorldModel,
    optimizer: th.optim.Optimizer,
    batch: SequenceBatch,
    config: PretrainConfig,
    step: int,
) -> th.Tensor:
    """
    Update a world model with one batch.

    :param loss_module: :class:`LossModule` of the world model, or a DistributedDataParallel around it.
    :param world_model: The world model.
    :param optimizer: Optimizer of its parameters.
    :param batch: The sequences of this process.
    :param config: Configuration of the run.
    :param step: Index of the update.
    :return: The loss and its parts, see :data:`LOSSES`.
    """
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate_at(step)
    optimizer.zero_grad()
    total = th.zeros(len(LOSSES), device=batch.rewards.device)
    n_parts = config.grad_accumulation_steps
    for number in range(n_parts):
        part = columns_of(batch, slice(number, None, n_parts)) if n_parts > 1 else batch
        # The processes average their gradients once, in the backward pass of the last part.
        skip_average = isinstance(loss_module, DistributedDataParallel) and number < n_parts - 1
        with loss_module.no_sync() if skip_average else contextlib.nullcontext():  # type: ignore[operator]
            losses = th.stack(loss_module(part)) / n_parts
            losses[0].backward()
        total += losses.detach()
    nn.utils.clip_grad_norm_(world_model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    if world_model.task_embedding is not None:
        # A lookup renormalizes only the rows that it reads, and each process reads other rows.
        with th.no_grad():
            world_model.task_embedding.weight.renorm_(2, 0, 1.0)
    return total
