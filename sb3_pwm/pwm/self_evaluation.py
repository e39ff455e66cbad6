"""Judging a policy without an environment: long rollouts in the world model from where episodes of the data begin."""

from __future__ import annotations

import copy
from typing import Any

import torch as th
from torch import nn

from sb3_pwm.pwm.policies import PWMPolicy

N_STARTS = 32
"""Largest number of episodes whose first observations the rollouts start from"""

N_STEPS = 200
"""Number of steps of a rollout. Over 50 steps, policies that never begin to move are hardly worse than others."""

N_EVALUATIONS = 10
"""Number of times that a policy is judged while it is learned"""

MIN_UPDATES = 500
"""Smallest number of updates of a run in which the policy is judged. In a shorter one, that would take longer."""

TOLERANCE = 0.25
"""How much worse than the best, relative to it, the last policy may be judged and still be kept. Rollouts tell a policy
that fails from one that does not, and say little about two good ones (docs/experiments.md)."""


@th.no_grad()
def rollout_return(policy: PWMPolicy, latents: th.Tensor, termination: bool, n_steps: int = N_STEPS) -> float:
    """
    Mean return of the deterministic policy in the world model, without discount or values.

    :param policy: The policy.
    :param latents: Latents ``(B, Z)`` to start from.
    :param termination: Whether the termination head is used.
    :param n_steps: Number of steps.
    :return: Mean over the rollouts of the sum of the rewards, in the world model's units, each by the probability of
        getting there.
    """
    world_model, task = policy.world_model, policy.task_index
    returns, alive = latents.new_zeros(len(latents)), latents.new_ones(len(latents))
    for _ in range(n_steps):
        actions = th.tanh(policy.actor_average(latents)[0])
        returns += alive * world_model.reward(latents, actions, task)
        latents = world_model.next(latents, actions, task)
        if termination:
            alive *= world_model.continuation(latents, task)
    return float(returns.mean())


class BestActor:
    """The actor that was judged best so far."""

    def __init__(self) -> None:
        self.score = -float("inf")
        """Judgement of the best"""
        self.n_updates = 0
        """Number of updates after which it was judged"""
        self._parameters: dict[str, Any] = {}

    def judge(self, actor: nn.Module, score: float, n_updates: int) -> None:
        """
        Remember an actor if it is the best so far.

        :param actor: The actor.
        :param score: Its judgement.
        :param n_updates: Number of updates so far.
        """
        if score > self.score:
            self.score, self.n_updates = score, n_updates
            self._parameters = copy.deepcopy(actor.state_dict())

    def restore(self, actor: nn.Module, score: float) -> bool:
        """
        Give an actor the best parameters if it is much worse.

        :param actor: The actor.
        :param score: Its judgement.
        :return: Whether it got them.
        """
        is_worse = self.score - score > TOLERANCE * abs(self.score)
        if is_worse:
            actor.load_state_dict(self._parameters)
        return is_worse
