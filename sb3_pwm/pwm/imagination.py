"""Latent rollouts and the losses computed in them (PWM section 4, algorithm 1). Pure functions of tensors."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch as th
import torch.nn.functional as F

from sb3_pwm.world_model.model import WorldModel


class LatentRollout(NamedTuple):
    """H imagined steps from each of B latents, time first."""

    latents: th.Tensor
    """``(H + 1, B, Z)``"""
    actions: th.Tensor
    """``(H, B, A)`` in [-1, 1]"""
    rewards: th.Tensor
    """``(H, B)`` decoded, in the world model's units"""
    continues: th.Tensor
    """``(H, B)`` probability that the episode goes on after step t"""
    log_probs: th.Tensor
    """``(H, B)`` log-density of the action under the policy"""


Policy = Callable[[th.Tensor], tuple[th.Tensor, th.Tensor]]
"""Latents ``(B, Z)`` to mean and log standard deviation ``(B, A)`` of the action before its tanh."""


def squashed_action(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> th.Tensor:
    """
    Reparameterised sample of a tanh-Gaussian, ``a = tanh(mean + std * noise)``.

    :param mean: ``(..., A)``.
    :param log_std: ``(..., A)``.
    :param noise: ``(..., A)`` standard normal.
    :return: Actions ``(..., A)``.
    """
    return th.tanh(mean + log_std.exp() * noise)


def squashed_log_prob(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> th.Tensor:
    """
    Log-density of the action that :func:`squashed_action` returns for the same arguments.

    :param mean: ``(..., A)``.
    :param log_std: ``(..., A)``.
    :param noise: ``(..., A)`` standard normal.
    :return: ``(...)``.
    """
    pre_tanh = mean + log_std.exp() * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * math.log(2.0 * math.pi)
    # log(1 - tanh(u)^2), in the form that does not underflow for large |u|
    log_slope = 2.0 * (math.log(2.0) - pre_tanh - F.softplus(-2.0 * pre_tanh))
    return (gaussian - log_slope).sum(-1)


def imagine(
    world_model: WorldModel,
    policy: Policy,
    latents: th.Tensor,
    noise: th.Tensor,
    task: th.Tensor | None = None,
    termination: bool = False,
) -> LatentRollout:
    """
    Roll the policy out in the world model.

    Gradients flow through the dynamics and the actions. The policy's input is detached, so that the action of step t is
    moved for what follows from it and not for how earlier actions change what the policy sees (PWM section 4.2).

    :param world_model: The model; its parameters need no gradient.
    :param policy: See :data:`Policy`.
    :param latents: Start states ``(B, Z)``.
    :param noise: Standard normal ``(H, B, A)``; its first dimension is the horizon.
    :param task: Task indices ``(B,)`` of a multi-task model.
    :param termination: Whether the model's termination head is used; otherwise every step continues.
    :return: The rollout.
    """
    states, actions, means, log_stds = [latents], [], [], []
    for step_noise in noise:
        mean, log_std = policy(states[-1].detach())
        action = squashed_action(mean, log_std, step_noise)
        states.append(world_model.next(states[-1], action, task))
        actions.append(action)
        means.append(mean)
        log_stds.append(log_std)
    stacked, stacked_actions = th.stack(states), th.stack(actions)
    # Whatever needs no step before it is evaluated for all steps at once: a rollout is bound by the number of kernels.
    rewards = world_model.reward(stacked[:-1], stacked_actions, task)
    continues = world_model.continuation(stacked[1:], task) if termination else th.ones_like(rewards)
    log_probs = squashed_log_prob(th.stack(means), th.stack(log_stds), noise)
    return LatentRollout(stacked, stacked_actions, rewards, continues, log_probs)


def discount_weights(continues: th.Tensor, gamma: float) -> th.Tensor:
    """
    How much each time step counts from the rollout's start: discount times probability of getting there.

    :param continues: ``(H, B)``.
    :param gamma: Discount factor.
    :return: ``(H + 1, B)``, the first row one.
    """
    steps = th.cumprod(gamma * continues, dim=0)
    return th.cat([th.ones_like(steps[:1]), steps])


def imagined_return(rewards: th.Tensor, continues: th.Tensor, final_values: th.Tensor, gamma: float) -> th.Tensor:
    """
    The H-step return with bootstrap that the policy maximises (PWM equation 6).

    :param rewards: ``(H, B)``.
    :param continues: ``(H, B)``.
    :param final_values: ``(B,)`` value of the last latent, in the rewards' units.
    :param gamma: Discount factor.
    :return: ``(B,)``.
    """
    weights = discount_weights(continues, gamma)
    return (weights[:-1] * rewards).sum(0) + weights[-1] * final_values


def td_lambda_returns(
    rewards: th.Tensor, continues: th.Tensor, next_values: th.Tensor, gamma: float, td_lambda: float | th.Tensor
) -> th.Tensor:
    """
    TD(lambda) targets: ``G_t = r_t + gamma c_{t+1} ((1 - lambda) V_{t+1} + lambda G_{t+1})``, ``G_H = V_H``.

    :param rewards: ``(H, B)``.
    :param continues: ``(H, B)``.
    :param next_values: ``(H, B)``, the values of the states after each step.
    :param gamma: Discount factor.
    :param td_lambda: Lambda: 0 is one-step bootstrapping, 1 the H-step return; or ``(H, B)``, one for every step, zero
        where the step after it belongs to another episode.
    :return: ``(H, B)``.
    """
    lambdas = td_lambda if isinstance(td_lambda, th.Tensor) else [td_lambda] * len(rewards)
    target = next_values[-1]
    targets = []
    for t in range(len(rewards) - 1, -1, -1):
        bootstrap = (1.0 - lambdas[t]) * next_values[t] + lambdas[t] * target
        target = rewards[t] + gamma * continues[t] * bootstrap
        targets.append(target)
    return th.stack(targets[::-1])


def critic_loss(values: th.Tensor, targets: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """
    Squared error of every ensemble member (PWM equation 8).

    :param values: ``(N, M)`` predictions of the N members for M states.
    :param targets: ``(M,)`` TD(lambda) targets, without gradient.
    :param weights: ``(M,)`` how much each state counts.
    :return: Scalar: weighted mean over the states, summed over the members.
    """
    return ((values - targets) ** 2 * weights).mean(-1).sum(0)
