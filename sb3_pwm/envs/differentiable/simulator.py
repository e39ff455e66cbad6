"""Simulators as pure functions of tensors: batched, and differentiable by states and actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch as th
from torch import nn

Accelerations = Callable[[th.Tensor, th.Tensor], th.Tensor]
"""Function of positions and velocities ``(..., N)`` that returns accelerations ``(..., N)``"""


def runge_kutta_step(
    accelerations: Accelerations, positions: th.Tensor, velocities: th.Tensor, seconds: float
) -> tuple[th.Tensor, th.Tensor]:
    """
    One step of the classical Runge-Kutta method of fourth order.

    :param accelerations: See :data:`Accelerations`.
    :param positions: ``(..., N)``
    :param velocities: ``(..., N)``
    :param seconds: Length of the step.
    :return: Positions and velocities after the step.
    """
    half = seconds / 2.0
    a1 = accelerations(positions, velocities)
    v2 = velocities + half * a1
    a2 = accelerations(positions + half * velocities, v2)
    v3 = velocities + half * a2
    a3 = accelerations(positions + half * v2, v3)
    v4 = velocities + seconds * a3
    a4 = accelerations(positions + seconds * v3, v4)
    positions = positions + seconds / 6.0 * (velocities + 2.0 * (v2 + v3) + v4)
    return positions, velocities + seconds / 6.0 * (a1 + 2.0 * (a2 + a3) + a4)


def semi_implicit_euler_step(
    accelerations: Accelerations, positions: th.Tensor, velocities: th.Tensor, seconds: float
) -> tuple[th.Tensor, th.Tensor]:
    """
    One step of Euler's semi-implicit method: positions move with the new velocities, which suits stiff contacts.

    :param accelerations: See :data:`Accelerations`.
    :param positions: ``(..., N)``
    :param velocities: ``(..., N)``
    :param seconds: Length of the step.
    :return: Positions and velocities after the step.
    """
    velocities = velocities + seconds * accelerations(positions, velocities)
    return positions + seconds * velocities, velocities


class Simulator(nn.Module, ABC):
    """
    A task whose dynamics are differentiable. Its methods are pure functions of tensors, for any batch of states.

    :meth:`next`, :meth:`reward` and :meth:`continuation` are those of a world model: a policy can be rolled out in a
    simulator by :func:`~sb3_pwm.pwm.imagination.imagine`. The argument ``task`` is a world model's; a simulator has one
    task. ``simulator.double()`` computes in double precision.

    A state ``(..., S)`` holds positions, then velocities. Actions ``(..., A)`` are in [-1, 1].
    """

    observation_dim: int
    """Size of an observation, O"""
    action_dim: int
    """Size of an action, A"""
    step_seconds: float = 0.02
    """Length of a step"""
    substeps: int = 1
    """Number of steps of the integrator in a step of the simulator"""
    integrator_step = staticmethod(runge_kutta_step)
    """Step of the integrator, :func:`runge_kutta_step` or :func:`semi_implicit_euler_step`"""

    @abstractmethod
    def accelerations(self, positions: th.Tensor, velocities: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param positions: ``(..., S / 2)``
        :param velocities: ``(..., S / 2)``
        :param actions: ``(..., A)``
        :return: Accelerations ``(..., S / 2)``.
        """

    def next(self, states: th.Tensor, actions: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:
        """
        Simulate one step.

        :param states: States ``(..., S)``.
        :param actions: Actions ``(..., A)`` in [-1, 1].
        :param task: Not used.
        :return: States ``(..., S)`` after the step.
        """
        positions, velocities = states.chunk(2, -1)
        accelerations = partial(self.accelerations, actions=actions)
        for _ in range(self.substeps):
            positions, velocities = self.integrator_step(
                accelerations, positions, velocities, self.step_seconds / self.substeps
            )
        return th.cat([positions, velocities], -1)

    @abstractmethod
    def observation(self, states: th.Tensor) -> th.Tensor:
        """
        :param states: States ``(..., S)``.
        :return: Observations ``(..., O)``.
        """

    @abstractmethod
    def reward(self, states: th.Tensor, actions: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:
        """
        :param states: States ``(..., S)`` before the step.
        :param actions: Actions ``(..., A)`` in [-1, 1].
        :param task: Not used.
        :return: Rewards ``(...)`` of the step.
        """

    def continuation(self, states: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:
        """
        :param states: States ``(..., S)`` after a step.
        :param task: Not used.
        :return: ``(...)``, zero if the step ended the episode, else one.
        """
        return th.ones_like(states[..., 0])

    @abstractmethod
    def initial_state(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        """
        :param n: Number of states.
        :param generator: Generator of the random numbers, on the simulator's device. None: torch's own.
        :return: States ``(n, S)`` in which episodes begin.
        """
