"""World-model loss on sequences of real experience (PWM equation 4; TD-MPC2 equation 3 without the critic)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch as th
import torch.nn.functional as F

from sb3_pwm.common.imitation import distance, log_spread
from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.world_model.model import WorldModel, padded
from sb3_pwm.world_model.rollout import rollout


class WorldModelLoss(NamedTuple):
    """World-model loss and its parts, scalar tensors."""

    total: th.Tensor
    """Sum of the parts, weighted by their coefficients"""
    dynamics: th.Tensor
    """Dynamics loss, without its coefficient"""
    reward: th.Tensor
    """Reward loss, without its coefficient"""
    termination: th.Tensor
    """Termination loss, without its coefficient"""
    behavior: th.Tensor
    """Behavior loss, without its coefficient"""


def encode_sequence(world_model: WorldModel, batch: SequenceBatch, gradient: bool = False) -> th.Tensor:
    """
    Encode the observations of sequences.

    :param world_model: The world model.
    :param batch: Sequences of H steps.
    :param gradient: Whether all latents have a gradient, or the first ones alone.
    :return: Latents ``(H + 1, B, Z)``.
    """
    if gradient:
        return world_model.encode(batch.observations, batch.task)
    with th.no_grad():
        following = world_model.encode(batch.observations[1:], batch.task)
    return th.cat([world_model.encode(batch.observations[:1], batch.task), following])


def prediction_errors(
    world_model: WorldModel, latents: th.Tensor, targets: th.Tensor, batch: SequenceBatch, termination: bool = True
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    Compute the errors of each step of an open-loop prediction, without weights and without the mask.

    :param world_model: The world model.
    :param latents: Predicted latents ``(H + 1, B, Z)``, the first of which are the encoded first observations.
    :param targets: Target latents ``(H, B, Z)``: the encoded true next observations, without gradient.
    :param batch: The sequences.
    :param termination: Whether to evaluate the termination head, if the model has one.
    :return: Dynamics error (squared, mean over the dimensions of the latent), reward error
        (:meth:`WorldModel.reward_loss`) and termination error (binary cross-entropy, or zero if the head is not
        evaluated), ``(H, B)`` each.
    """
    dynamics = ((latents[1:] - targets) ** 2).mean(-1)
    logits = world_model.reward_logits(latents[:-1], batch.actions, batch.task)
    reward = world_model.reward_loss(logits, batch.rewards)
    if not termination or world_model.termination_network is None:
        return dynamics, reward, th.zeros_like(reward)
    return dynamics, reward, _termination_errors(world_model, latents, batch)


def _termination_errors(world_model: WorldModel, latents: th.Tensor, batch: SequenceBatch) -> th.Tensor:
    """:return: Binary cross-entropy ``(H, B)`` of the termination head along predicted latents ``(H + 1, B, Z)``."""
    logits = world_model.termination_logits(latents[1:], batch.task)
    return F.binary_cross_entropy_with_logits(logits, batch.terminations, reduction="none")


def world_model_loss(
    world_model: WorldModel,
    batch: SequenceBatch,
    rho: float = 0.99,
    dynamics_coef: float = 20.0,
    reward_coef: float = 0.1,
    termination_coef: float = 1.0,
    behavior_coef: float = 1.0,
    termination: bool = True,
    step: Callable[..., th.Tensor] = WorldModel.next,
    errors: Callable[..., tuple[th.Tensor, th.Tensor, th.Tensor]] = prediction_errors,
) -> WorldModelLoss:
    """
    Compute the open-loop prediction error of latents, rewards and terminations.

    The first observation is encoded, and the dynamics is rolled out along the actions of the sequence. The target of
    each predicted latent is the encoding of the true next observation, without gradient.

    :param world_model: The world model.
    :param batch: Sequences of H steps.
    :param rho: Decay of the weights: step t has the weight ``rho ** t``.
    :param dynamics_coef: Coefficient of the dynamics loss.
    :param reward_coef: Coefficient of the reward loss.
    :param termination_coef: Coefficient of the termination loss.
    :param behavior_coef: Coefficient of the behavior loss, if the model has a behavior head.
    :param termination: Whether to train the termination head, if the model has one.
    :param step: :meth:`WorldModel.next`, or its compiled form.
    :param errors: :func:`prediction_errors`, or its compiled form.
    :return: The loss and its parts. Each part but the behavior loss (see :func:`behavior_loss`) is the weighted sum of
        the errors over the steps, divided by H, and averaged over the batch.
    """
    imitates = world_model.behavior_network is not None and behavior_coef > 0.0
    encoded = encode_sequence(world_model, batch, gradient=imitates)
    latents = rollout(partial(step, world_model), encoded[0], batch.actions, batch.task)
    step_errors = errors(world_model, latents, encoded[1:].detach(), batch, termination)

    dynamics, reward, termination_error = (_weighted_mean(error, batch.mask, rho) for error in step_errors)
    total = dynamics_coef * dynamics + reward_coef * reward + termination_coef * termination_error
    behavior = th.zeros_like(total)
    if imitates:
        behavior = behavior_loss(world_model, encoded, batch)
        total = total + behavior_coef * behavior
    return WorldModelLoss(total, dynamics, reward, termination_error, behavior)


def behavior_loss(world_model: WorldModel, encoded: th.Tensor, batch: SequenceBatch) -> th.Tensor:
    """
    Negative log-likelihood of the data's actions in the encoded observations, by the behavior head.

    The spread of the actions of each task and dimension is fitted to the batch, see
    :func:`~sb3_pwm.common.imitation.log_spread`: precise behaviors are predicted precisely. Sequences that are in the
    batch to show ends of episodes do not count: what behaviors do while they fail would look like their spread.

    :param world_model: A world model with a behavior head.
    :param encoded: Encoded observations ``(H + 1, B, Z)``, see :func:`encode_sequence`.
    :param batch: The sequences.
    :return: The loss, a mean over dimensions and tasks, which count by their numbers of steps.
    """
    actions = padded(batch.actions, world_model.config.action_dim, "actions")
    errors = distance(world_model.behavior(encoded[:-1], batch.task), actions)
    mask = batch.mask if batch.representative is None else batch.mask * batch.representative
    sums, counts = (errors * mask.unsqueeze(-1)).sum(0), mask.sum(0)  # (B, A), (B,)
    n_tasks = max(len(world_model.config.tasks), 1)
    task = th.zeros_like(counts, dtype=th.long) if batch.task is None else batch.task
    task_sums = sums.new_zeros(n_tasks, sums.shape[-1]).index_add(0, task, sums)
    task_counts = counts.new_zeros(n_tasks).index_add(0, task, counts)
    spreads = task_sums / task_counts.clamp(min=1.0).unsqueeze(-1)
    return (log_spread(spreads).mean(-1) * task_counts).sum() / task_counts.sum().clamp(min=1.0)


def termination_loss(world_model: WorldModel, batch: SequenceBatch, rho: float = 0.99) -> th.Tensor:
    """
    Compute the termination loss of :func:`world_model_loss` for the termination head alone.

    :param world_model: The world model. It must have a termination head, which alone gets a gradient if the other
        parameters require none.
    :param batch: Sequences of H steps.
    :param rho: Decay of the weights: step t has the weight ``rho ** t``.
    :return: The loss, without a coefficient.
    """
    with th.no_grad():
        start = world_model.encode(batch.observations[0], batch.task)
        latents = rollout(world_model.next, start, batch.actions, batch.task)
    return _weighted_mean(_termination_errors(world_model, latents, batch), batch.mask, rho)


def _weighted_mean(error: th.Tensor, mask: th.Tensor, rho: float) -> th.Tensor:
    """:return: Weighted sum of errors ``(H, B)`` over the steps, divided by H, and averaged over the batch."""
    horizon, batch_size = mask.shape
    weights = mask * rho ** th.arange(horizon, device=mask.device, dtype=mask.dtype).unsqueeze(-1)
    return (weights * error).sum() / (horizon * batch_size)
