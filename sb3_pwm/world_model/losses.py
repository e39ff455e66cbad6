"""The world-model loss over sequences of real experience (PWM equation 4; TD-MPC2 equation 3 without the critic)."""

from collections.abc import Callable
from typing import NamedTuple

import torch as th
import torch.nn.functional as F

from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.world_model.model import WorldModel
from sb3_pwm.world_model.rollout import rollout


class WorldModelLoss(NamedTuple):
    """Scalar tensors; ``total`` is the weighted sum of the others, which are unweighted by their coefficients."""

    total: th.Tensor
    dynamics: th.Tensor
    reward: th.Tensor
    termination: th.Tensor


def predict_sequence(
    world_model: WorldModel, batch: SequenceBatch, step: Callable[..., th.Tensor] = WorldModel.next
) -> tuple[th.Tensor, th.Tensor]:
    """
    Predict real sequences open loop, from their first observations.

    :param world_model: The model.
    :param batch: The sequences.
    :param step: :meth:`WorldModel.next`, or a compiled form of it.
    :return: Predicted latents ``(H + 1, B, Z)``, the first of which are encoded, and their targets ``(H, B, Z)``, the
        encodings of the true next observations without gradient.
    """
    with th.no_grad():
        targets = world_model.encode(batch.observations[1:], batch.task)
    start = world_model.encode(batch.observations[0], batch.task)
    return rollout(world_model, start, batch.actions, batch.task, step), targets


def prediction_errors(
    world_model: WorldModel, latents: th.Tensor, targets: th.Tensor, batch: SequenceBatch, termination: bool = True
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    Errors of every step of an open-loop prediction, unweighted and unmasked.

    :param world_model: The model.
    :param latents: Predicted latents ``(H + 1, B, Z)``, the first one encoded.
    :param targets: True latents ``(H, B, Z)`` of the steps' next observations.
    :param batch: The sequences.
    :param termination: Whether to evaluate the termination head; without effect if the model has none.
    :return: Of the latent (squared, mean over its dimensions), of the reward (the head's loss) and of the termination
        (binary cross-entropy; zero without the head), ``(H, B)`` each.
    """
    dynamics = ((latents[1:] - targets) ** 2).mean(-1)
    logits = world_model.reward_logits(latents[:-1], batch.actions, batch.task)
    reward = world_model.reward_loss(logits, batch.rewards)
    if not termination or world_model.termination_network is None:
        return dynamics, reward, th.zeros_like(reward)
    termination_logits = world_model.termination_logits(latents[1:], batch.task)
    error = F.binary_cross_entropy_with_logits(termination_logits, batch.terminations, reduction="none")
    return dynamics, reward, error


def world_model_loss(
    world_model: WorldModel,
    batch: SequenceBatch,
    rho: float = 0.99,
    dynamics_coef: float = 20.0,
    reward_coef: float = 0.1,
    termination_coef: float = 1.0,
    termination: bool = True,
    step: Callable[..., th.Tensor] = WorldModel.next,
    errors: Callable[..., tuple[th.Tensor, th.Tensor, th.Tensor]] = prediction_errors,
) -> WorldModelLoss:
    """
    Open-loop prediction error of latent, reward and termination along each sequence.

    The first observation is encoded, then the dynamics is rolled out along the actions that were taken. The target of
    each predicted latent is the encoding of the true next observation, without gradient.

    :param world_model: The model.
    :param batch: Sequences of H steps, see :class:`~sb3_pwm.data.types.SequenceBatch`.
    :param rho: Weight of step t is ``rho ** t``.
    :param dynamics_coef: Coefficient of the latent's squared error (mean over its dimensions).
    :param reward_coef: Coefficient of the reward's loss.
    :param termination_coef: Coefficient of the termination's binary cross-entropy.
    :param termination: Whether to train the termination head; without effect if the model has none.
    :param step: :meth:`WorldModel.next`, or a compiled form of it.
    :param errors: :func:`prediction_errors`, or a compiled form of it.
    :return: The loss and its parts, each a weighted sum over the steps divided by H, averaged over the batch.
    """
    latents, targets = predict_sequence(world_model, batch, step)
    step_errors = errors(world_model, latents, targets, batch, termination)

    horizon, batch_size = batch.mask.shape
    weights = batch.mask * rho ** th.arange(horizon, device=batch.mask.device, dtype=batch.mask.dtype).unsqueeze(-1)
    dynamics, reward, termination_error = ((weights * error).sum() / (horizon * batch_size) for error in step_errors)
    total = dynamics_coef * dynamics + reward_coef * reward + termination_coef * termination_error
    return WorldModelLoss(total, dynamics, reward, termination_error)
