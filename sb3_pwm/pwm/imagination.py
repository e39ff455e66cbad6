"""Latent rollouts and the losses computed in them (PWM section 4, algorithm 1). Pure functions of tensors."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch as th
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

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


class ReplayedStates(NamedTuple):
    """M real steps, and what really followed them."""

    latents: th.Tensor
    """``(M, Z)``"""
    actions: th.Tensor
    """``(M, A)`` in [-1, 1]"""
    targets: th.Tensor
    """``(M,)`` TD(lambda) targets"""
    values: th.Tensor
    """``(M,)`` of the states"""
    mask: th.Tensor
    """``(M,)`` whether the step is one, or padding after an episode's end"""


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


class ImaginedStep(NamedTuple):
    """What one step of a rollout gives, all ``(B, *)``."""

    latents: th.Tensor
    """``(B, Z)`` after the step"""
    actions: th.Tensor
    """``(B, A)`` in [-1, 1]"""
    means: th.Tensor
    """``(B, A)`` of the action before its tanh"""
    log_stds: th.Tensor
    """``(B, A)``"""


def imagined_step(
    world_model: WorldModel, policy: Policy, latents: th.Tensor, noise: th.Tensor, task: th.Tensor | None = None
) -> ImaginedStep:
    """
    One step of the policy in the world model; the policy's input is detached.

    :param world_model: The model.
    :param policy: See :data:`Policy`.
    :param latents: ``(B, Z)``.
    :param noise: Standard normal ``(B, A)``.
    :param task: Task indices ``(B,)`` of a multi-task model.
    :return: The step.
    """
    mean, log_std = policy(latents.detach())
    action = squashed_action(mean, log_std, noise)
    return ImaginedStep(world_model.next(latents, action, task), action, mean, log_std)


def checkpointed_step(
    world_model: WorldModel, policy: Policy, latents: th.Tensor, noise: th.Tensor, task: th.Tensor | None = None
) -> ImaginedStep:
    """:func:`imagined_step` that keeps nothing but its inputs for the backward pass and computes the rest again."""
    return checkpoint(imagined_step, world_model, policy, latents, noise, task, use_reentrant=False)  # type: ignore[no-any-return]


def imagined_outcomes(
    world_model: WorldModel,
    latents: th.Tensor,
    actions: th.Tensor,
    task: th.Tensor | None = None,
    termination: bool = False,
) -> tuple[th.Tensor, th.Tensor]:
    """
    Rewards and continuation probabilities along a rollout, all steps at once.

    :param world_model: The model.
    :param latents: ``(H + 1, B, Z)``.
    :param actions: ``(H, B, A)``.
    :param task: Task indices ``(B,)`` of a multi-task model.
    :param termination: Whether the model's termination head is used; otherwise every step continues.
    :return: Rewards and continuation probabilities, ``(H, B)`` each.
    """
    rewards = world_model.reward(latents[:-1], actions, task)
    return rewards, world_model.continuation(latents[1:], task) if termination else th.ones_like(rewards)


def imagine(
    world_model: WorldModel,
    policy: Policy,
    latents: th.Tensor,
    noise: th.Tensor,
    task: th.Tensor | None = None,
    termination: bool = False,
    step: Callable[..., ImaginedStep] = imagined_step,
    outcomes: Callable[..., tuple[th.Tensor, th.Tensor]] = imagined_outcomes,
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
    :param step: :func:`imagined_step`, or a compiled or checkpointed form of it.
    :param outcomes: :func:`imagined_outcomes`, or a compiled form of it.
    :return: The rollout.
    """
    steps: list[ImaginedStep] = []
    for step_noise in noise:
        steps.append(step(world_model, policy, steps[-1].latents if steps else latents, step_noise, task))
    after, actions, means, log_stds = (th.stack(column) for column in zip(*steps, strict=True))
    stacked = th.cat([latents.unsqueeze(0), after])
    # Whatever needs no step before it is evaluated for all steps at once: a rollout is bound by the number of kernels.
    rewards, continues = outcomes(world_model, stacked, actions, task, termination)
    return LatentRollout(stacked, actions, rewards, continues, squashed_log_prob(means, log_stds, noise))


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


def advantage_weights(advantages: th.Tensor, mask: th.Tensor, temperature: float, maximum: float = 20.0) -> th.Tensor:
    """
    How much each step's action is to be imitated: ``exp(A / (temperature std(A)))`` (advantage-weighted regression,
    arXiv 1910.00177), by the advantages' own spread, so that the rewards' scale does not matter.

    :param advantages: ``(M,)``.
    :param mask: ``(M,)``, zero for steps that do not count.
    :param temperature: Small: only what turned out best; infinite: everything alike.
    :param maximum: Of a weight, before they are scaled.
    :return: ``(M,)``, of mean one over all M where none is masked; zero where ``mask`` is.
    """
    count = mask.sum().clamp(min=1.0)
    mean = (advantages * mask).sum() / count
    std = (((advantages - mean) ** 2 * mask).sum() / count).sqrt().clamp(min=1e-6)
    weights = ((advantages - mean) / (temperature * std)).exp().clamp(max=maximum) * mask
    return weights * (count / weights.sum().clamp(min=1e-6))


def critic_loss(values: th.Tensor, targets: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """
    Squared error of every ensemble member (PWM equation 8).

    :param values: ``(N, M)`` predictions of the N members for M states.
    :param targets: ``(M,)`` TD(lambda) targets, without gradient.
    :param weights: ``(M,)`` how much each state counts.
    :return: Scalar: weighted mean over the states, summed over the members.
    """
    return ((values - targets) ** 2 * weights).mean(-1).sum(0)
