"""Judging a policy without an environment: long rollouts in the world model from where episodes of the data begin."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

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

MAX_STRANGENESS = 1.0
"""Largest :func:`strangeness` of rollouts that are believed"""

N_COMPARED = 2048
"""Number of replayed latents that rollouts are compared with"""

SAME_STATE = 0.01
"""Distance, relative to the median distance in the data, below which two latents are of the same state"""

STRIDE = 10
"""Number of steps between the compared latents of a rollout"""


class Judgement(NamedTuple):
    """What rollouts of a policy say."""

    mean_return: float
    """Mean over the rollouts of the sum of the rewards, in the world model's units, each by the probability of getting
    there"""
    visited: th.Tensor
    """``(N, Z)`` every :data:`STRIDE`-th latent of all rollouts"""


@th.no_grad()
def judge(policy: PWMPolicy, latents: th.Tensor, termination: bool, n_steps: int = N_STEPS) -> Judgement:
    """
    Roll the deterministic policy out in the world model, and sum its rewards, without discount or values.

    :param policy: The policy.
    :param latents: Latents ``(B, Z)`` to start from.
    :param termination: Whether the termination head is used.
    :param n_steps: Number of steps.
    :return: The judgement.
    """
    world_model, task = policy.world_model, policy.task_index
    returns, alive = latents.new_zeros(len(latents)), latents.new_ones(len(latents))
    visited = [latents]
    for _ in range(n_steps):
        actions = th.tanh(policy.actor_average(latents)[0])
        returns += alive * world_model.reward(latents, actions, task)
        latents = world_model.next(latents, actions, task)
        visited.append(latents)
        if termination:
            alive *= world_model.continuation(latents, task)
    return Judgement(float(returns.mean()), th.cat(visited[::STRIDE]))


def strangeness(visited: th.Tensor, data: th.Tensor) -> float:
    """
    How far latents are from those of the data, in units of how far the data's are from each other.

    A world model of an expert's data knows no falls, and makes them up: its rollouts of a good policy can go wrong
    where those of a poor one do not (docs/experiments.md). Then they leave the data.

    :param visited: Latents ``(N, Z)``.
    :param data: Latents ``(M, Z)`` of the data. The same state may be among them several times.
    :return: Median distance of ``visited`` to the nearest of ``data``, divided by the median distance of ``data`` to
        the nearest other state among them.
    """
    between = th.cdist(data, data)
    same = between < SAME_STATE * between.median()
    near = between.masked_fill(same, th.inf).amin(1).median()
    return float(th.cdist(visited, data).amin(1).median() / near)


class BestActor:
    """The actor that was judged best so far."""

    def __init__(self) -> None:
        self.score = -float("inf")
        """Judgement of the best"""
        self.n_updates = 0
        """Number of updates after which it was judged"""
        self._parameters: dict[str, Any] = {}

    def update(self, actor: nn.Module, score: float, n_updates: int) -> None:
        """
        Remember an actor if it is the best so far.

        :param actor: The actor.
        :param score: Its judgement.
        :param n_updates: Number of updates so far.
        """
        if score > self.score:
            self.score, self.n_updates = score, n_updates
            self._parameters = copy.deepcopy(actor.state_dict())

    def is_better(self, score: float) -> bool:
        """
        :param score: Judgement of another actor.
        :return: Whether the best one is judged much better.
        """
        return self.score - score > TOLERANCE * abs(self.score)

    def restore(self, actor: nn.Module) -> None:
        """
        Give an actor the parameters of the best one.

        :param actor: The actor.
        """
        actor.load_state_dict(self._parameters)
