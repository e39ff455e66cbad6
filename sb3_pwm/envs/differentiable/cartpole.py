"""Swing-up of a pole on a cart."""

from __future__ import annotations

import math

import torch as th
import torch.nn.functional as F

from sb3_pwm.envs.differentiable.links import PlanarLinks, capsule_inertia
from sb3_pwm.envs.differentiable.simulator import Simulator

FORCE = 10.0
"""Force of the cart's motor in N"""
RAIL = 1.8
"""Distance from the middle to each end of the rail in m"""
BUMPER = 500.0
"""Stiffness of the springs there in N per m"""


class CartpoleSwingup(Simulator):
    """
    dm_control's ``cartpole swingup`` in torch: the same bodies, motor, initial states and reward.

    A cart of 1 kg on a rail carries a pole of 1 m and 0.1 kg, which hangs down at first. The reward of a step is in
    [0, 1]: high for an upright pole that moves slowly, a cart in the middle, and little force. It is that of the state
    before the step, and the rail ends in springs; in this the task differs from dm_control's. Equations of motion:
    :class:`~sb3_pwm.envs.differentiable.links.PlanarLinks`.

    The state is position of the cart, angle of the pole, and their velocities. The observation is the position, cosine
    and sine of the angle, and the velocities, in the order of dm_control.
    """

    observation_dim = 5
    action_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.links = PlanarLinks([0.1], [capsule_inertia(0.1, 1.0, 0.045)], [[0.5]], free=1, base_mass=1.0)

    def accelerations(self, positions: th.Tensor, velocities: th.Tensor, actions: th.Tensor) -> th.Tensor:
        x, speed = positions[..., :1], velocities[..., :1]
        bumper = BUMPER * (x.clamp(-RAIL, RAIL) - x)
        on_cart = FORCE * actions + bumper - 5e-4 * speed
        return self.links.accelerations(positions, velocities, th.cat([on_cart, -2e-6 * velocities[..., 1:]], -1))

    def observation(self, states: th.Tensor) -> th.Tensor:
        x, angle, velocities = states[..., :1], states[..., 1:2], states[..., 2:]
        return th.cat([x, angle.cos(), angle.sin(), velocities], -1)

    def reward(self, states: th.Tensor, actions: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:
        x, angle, _, rate = states.unbind(-1)
        upright = (1.0 + angle.cos()) / 2.0
        centered = (1.0 + 0.1 ** ((x / 2.0) ** 2)) / 2.0
        small_control = (4.0 + F.relu(1.0 - actions[..., 0] ** 2)) / 5.0
        small_velocity = (1.0 + 0.1 ** ((rate / 5.0) ** 2)) / 2.0
        return upright * centered * small_control * small_velocity

    def initial_state(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        hanging = self.links.coupling.new_tensor([0.0, math.pi, 0.0, 0.0])
        return hanging + 0.01 * th.randn(n, 4, generator=generator, dtype=hanging.dtype, device=hanging.device)
