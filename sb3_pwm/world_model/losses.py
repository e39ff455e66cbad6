"""The world-model loss over sequences of real experience (PWM equation 4; TD-MPC2 equation 3 without the critic)."""

from typing import NamedTuple

import torch as th
import torch.nn.functional as F

from sb3_pwm.data.batch import SequenceBatch
from sb3_pwm.world_model.model import WorldModel


class WorldModelLoss(NamedTuple):
    """Scalar tensors; ``total`` is the weighted sum of the others, which are unweighted by their coefficients."""

    total: th.Tensor
    dynamics: th.Tensor
    reward: th.Tensor
    termination: th.Tensor


def world_model_loss(
    world_model: WorldModel,
    batch: SequenceBatch,
    rho: float = 0.99,
    dynamics_coef: float = 20.0,
    reward_coef: float = 0.1,
    termination_coef: float = 1.0,
    termination: bool = True,
) -> WorldModelLoss:
    """
    Open-loop prediction error of latent, reward and termination along each sequence.

    The first observation is encoded, then the dynamics is rolled out along the actions that were taken. The target of
    each predicted latent is the encoding of the true next observation, without gradient.

    :param world_model: The model.
    :param batch: Sequences of H steps, see :class:`~sb3_pwm.data.batch.SequenceBatch`.
    :param rho: Weight of step t is ``rho ** t``.
    :param dynamics_coef: Coefficient of the latent's squared error (mean over its dimensions).
    :param reward_coef: Coefficient of the reward's loss.
    :param termination_coef: Coefficient of the termination's binary cross-entropy.
    :param termination: Whether to train the termination head; without effect if the model has none.
    :return: The loss and its parts, each a weighted sum over the steps divided by H, averaged over the batch.
    """
    horizon = batch.actions.shape[0]
    with th.no_grad():
        targets = world_model.encode(batch.observations[1:], batch.task)  # (H, B, Z)
    latents = [world_model.encode(batch.observations[0], batch.task)]
    for t in range(horizon):
        latents.append(world_model.next(latents[-1], batch.actions[t], batch.task))
    before, after = th.stack(latents[:-1]), th.stack(latents[1:])  # (H, B, Z)

    weights = batch.mask * rho ** th.arange(horizon, device=batch.mask.device, dtype=batch.mask.dtype).unsqueeze(-1)
    normaliser = horizon * batch.mask.shape[1]

    def weighted(error: th.Tensor) -> th.Tensor:
        return (weights * error).sum() / normaliser

    dynamics = weighted(((after - targets) ** 2).mean(-1))
    logits = world_model.reward_logits(before, batch.actions, batch.task)
    reward = weighted(world_model.reward_loss(logits, batch.rewards))
    total = dynamics_coef * dynamics + reward_coef * reward
    termination_error = th.zeros_like(total)
    if termination and world_model.termination_network is not None:
        termination_logits = world_model.termination_logits(after, batch.task)
        termination_error = weighted(
            F.binary_cross_entropy_with_logits(termination_logits, batch.terminations, reduction="none")
        )
        total = total + termination_coef * termination_error
    return WorldModelLoss(total, dynamics, reward, termination_error)
