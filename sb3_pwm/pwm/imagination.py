"""Rollouts of the policy in the world model (PWM section 4, algorithm 1). Pure functions of tensors."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch as th
from torch.utils.checkpoint import checkpoint

from sb3_pwm.pwm.networks import squashed_action, squashed_log_prob


class Dynamics(Protocol):
    """
    What a policy is rolled out in: a :class:`~sb3_pwm.world_model.WorldModel`, or a differentiable simulator, whose
    states take the place of latents (:class:`~sb3_pwm.envs.differentiable.Simulator`).
    """

    def next(self, latents: th.Tensor, actions: th.Tensor, task: th.Tensor | None = None, /) -> th.Tensor:
        """
        :param latents: Latents ``(..., Z)``.
        :param actions: Actions ``(..., A)`` in [-1, 1].
        :param task: Task indices ``(...)`` of a multi-task model.
        :return: Next latents ``(..., Z)``.
        """

    def reward(self, latents: th.Tensor, actions: th.Tensor, task: th.Tensor | None = None, /) -> th.Tensor:
        """
        :param latents: Latents ``(..., Z)`` before the step.
        :param actions: Actions ``(..., A)`` in [-1, 1].
        :param task: Task indices ``(...)`` of a multi-task model.
        :return: Rewards ``(...)``.
        """

    def continuation(self, latents: th.Tensor, task: th.Tensor | None = None, /) -> th.Tensor:
        """
        :param latents: Latents ``(..., Z)`` after a step.
        :param task: Task indices ``(...)`` of a multi-task model.
        :return: Probability ``(...)`` that the episode goes on after the step.
        """


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
"""Function of latents ``(B, Z)`` that returns mean and log standard deviation ``(B, A)`` before the tanh"""


class ImaginedStep(NamedTuple):
    """One step of a rollout."""

    latents: th.Tensor
    """``(B, Z)`` after the step"""
    actions: th.Tensor
    """``(B, A)`` in [-1, 1]"""
    means: th.Tensor
    """``(B, A)`` of the action before its tanh"""
    log_stds: th.Tensor
    """``(B, A)``"""


def imagined_step(
    dynamics: Dynamics,
    policy: Policy,
    latents: th.Tensor,
    noise: th.Tensor,
    task: th.Tensor | None = None,
    detach: bool = True,
) -> ImaginedStep:
    """
    One step of the policy in the world model.

    :param dynamics: The world model.
    :param policy: The policy, see :data:`Policy`.
    :param latents: Latents ``(B, Z)`` before the step.
    :param noise: Standard normal noise ``(B, A)`` of the actions.
    :param task: Task indices ``(B,)`` of a multi-task model.
    :param detach: Whether the input of the policy is detached. If not, a rollout has the whole gradient of its return.
    :return: The step.
    """
    mean, log_std = policy(latents.detach() if detach else latents)
    action = squashed_action(mean, log_std, noise)
    return ImaginedStep(dynamics.next(latents, action, task), action, mean, log_std)


def checkpointed_step(
    dynamics: Dynamics, policy: Policy, latents: th.Tensor, noise: th.Tensor, task: th.Tensor | None = None
) -> ImaginedStep:
    """:func:`imagined_step`, but only its inputs are kept for the backward pass, which computes the rest again."""
    return checkpoint(imagined_step, dynamics, policy, latents, noise, task, use_reentrant=False)  # type: ignore[no-any-return]


def imagined_outcomes(
    dynamics: Dynamics,
    latents: th.Tensor,
    actions: th.Tensor,
    task: th.Tensor | None = None,
    termination: bool = False,
) -> tuple[th.Tensor, th.Tensor]:
    """
    Rewards and continuation probabilities along a rollout, all steps at once.

    :param dynamics: The world model.
    :param latents: Latents ``(H + 1, B, Z)`` of the rollout.
    :param actions: Actions ``(H, B, A)`` in [-1, 1].
    :param task: Task indices ``(B,)`` of a multi-task model.
    :param termination: Whether the termination head is used. If not, every step continues.
    :return: Rewards and continuation probabilities, ``(H, B)`` each.
    """
    rewards = dynamics.reward(latents[:-1], actions, task)
    return rewards, dynamics.continuation(latents[1:], task) if termination else th.ones_like(rewards)


def imagine(
    dynamics: Dynamics,
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

    Gradients flow through the dynamics and the actions. The input of the policy is detached: the gradient of an action
    contains what follows from it, and not how earlier actions change the input of the policy (PWM section 4.2).

    :param dynamics: The world model, or what takes its place. Its parameters need no gradient.
    :param policy: The policy, see :data:`Policy`.
    :param latents: Start latents ``(B, Z)``.
    :param noise: Standard normal noise ``(H, B, A)`` of the actions. The first dimension is the horizon.
    :param task: Task indices ``(B,)`` of a multi-task model.
    :param termination: Whether the termination head is used. If not, every step continues.
    :param step: :func:`imagined_step`, or a form of it: compiled, checkpointed, or with ``detach=False``.
    :param outcomes: :func:`imagined_outcomes`, or a compiled form of it.
    :return: The rollout.
    """
    steps: list[ImaginedStep] = []
    for step_noise in noise:
        steps.append(step(dynamics, policy, steps[-1].latents if steps else latents, step_noise, task))
    after, actions, means, log_stds = (th.stack(column) for column in zip(*steps, strict=True))
    stacked = th.cat([latents.unsqueeze(0), after])
    # Rewards and log-densities are evaluated for all steps at once: a rollout is bound by the number of kernels.
    rewards, continues = outcomes(dynamics, stacked, actions, task, termination)
    return LatentRollout(stacked, actions, rewards, continues, squashed_log_prob(means, log_stds, noise))
