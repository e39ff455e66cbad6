"""Validation of a world model: open-loop errors on held-out episodes."""

from typing import Any

import numpy as np
import torch as th

from sb3_pwm.common.precision import autocast
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.pretrain.batches import to_device
from sb3_pwm.pretrain.config import PretrainConfig
from sb3_pwm.world_model.losses import encode_sequence, world_model_loss
from sb3_pwm.world_model.model import WorldModel
from sb3_pwm.world_model.rollout import rollout

VALIDATION_BATCHES = 8
MAX_BATCH_SIZE = 256


@th.no_grad()
def open_loop_errors(
    world_model: WorldModel, batch: SequenceBatch, rho: float = 0.99
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    Compute the errors of an open-loop prediction along real sequences.

    :param world_model: The world model.
    :param batch: Sequences of H steps.
    :param rho: Decay of the weights in the loss, see :func:`~sb3_pwm.world_model.losses.world_model_loss`.
    :return: Squared error of the latent (mean over its dimensions) and absolute error of the reward (in the units of
        the environment) after 1, ..., H steps, ``(H,)`` each, and the loss. Errors are means over the sequences whose
        episode lasts that long.
    """
    loss = world_model_loss(world_model, batch, rho).total
    encoded = encode_sequence(world_model, batch)
    predicted = rollout(world_model.next, encoded[0], batch.actions, batch.task)
    rewards = world_model.reward(predicted[:-1], batch.actions, batch.task)
    counts = batch.mask.sum(1).clamp(min=1.0)
    latent_error = (((predicted[1:] - encoded[1:]) ** 2).mean(-1) * batch.mask).sum(1) / counts
    reward_error = ((rewards - batch.rewards).abs() * batch.mask).sum(1) / counts
    return latent_error, reward_error, loss


def validate(
    world_model: WorldModel, dataset: OfflineDataset, rows: th.Tensor | None, config: PretrainConfig, device: th.device
) -> dict[str, Any]:
    """
    Evaluate a world model on held-out episodes. Every call takes the same sequences.

    :param world_model: The world model.
    :param dataset: The held-out episodes.
    :param rows: Task indices of the world model, see :func:`~sb3_pwm.pretrain.batches.task_rows`.
    :param config: Configuration of the run.
    :param device: Device of the world model.
    :return: Dictionary with the ``loss``, and with lists ``latent_error`` and ``reward_error`` of the errors after
        1, ..., H steps.
    """
    results = []
    for number in range(VALIDATION_BATCHES):
        rng = np.random.default_rng([config.seed, number, 1])
        batch = dataset.sample(min(config.batch_size, MAX_BATCH_SIZE), config.horizon, rng, config.balance)
        with autocast(device, config.precision, world_model.config.mlp_dim):
            results.append(open_loop_errors(world_model, to_device(batch, rows, device), config.rho))
    latent, reward, loss = (th.stack(part).float().mean(0) for part in zip(*results, strict=True))
    return {"loss": float(loss), "latent_error": latent.tolist(), "reward_error": reward.tolist()}
