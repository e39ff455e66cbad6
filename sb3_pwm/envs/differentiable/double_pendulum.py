"""Swing-up of a double pendulum with weak motors."""

from __future__ import annotations

import math

import torch as th
import torch.nn.functional as F

from sb3_pwm.envs.differentiable.links import PlanarLinks, capsule_inertia
from sb3_pwm.envs.differentiable.simulator import Simulator

TORQUES = (10.0, 5.0)
"""Torques of the motors at shoulder and elbow in N m. Holding both arms out takes 19.6 and 4.9."""
DAMPING = 0.05
"""Damping of the joints in N m s"""


class DoublePendulumSwingup(Simulator):
    """
    Two arms of 1 m and 1 kg on a fixed shoulder, with the bodies of dm_control's acrobot, that are to stand upright.

    Unlike the acrobot's, both joints have a motor. The shoulder's cannot lift the arms at once: they have to be swung
    up. The arms begin at rest, at any angles. The reward of a step is the height of the tip, from 0 (hanging) to 1
    (upright), and up to half less if the arms move. Equations of motion:
    :class:`~sb3_pwm.envs.differentiable.links.PlanarLinks`.

    The state is the absolute angles of upper and lower arm, zero upright, and their velocities. The observation is
    cosines and sines of the angles, and the velocities.
    """

    observation_dim = 6
    action_dim = 2

    torques: th.Tensor
    joints: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        inertias = [capsule_inertia(1.0, 1.0, 0.05), capsule_inertia(1.0, 1.0, 0.049)]
        self.links = PlanarLinks([1.0, 1.0], inertias, [[0.5, 0.0], [1.0, 0.5]])
        self.register_buffer("torques", th.tensor(TORQUES))
        # Angles of the joints by those of the arms
        self.register_buffer("joints", th.tensor([[1.0, 0.0], [-1.0, 1.0]]))

    def accelerations(self, positions: th.Tensor, velocities: th.Tensor, actions: th.Tensor) -> th.Tensor:
        torques = self.torques * actions - DAMPING * (velocities @ self.joints.T)
        return self.links.accelerations(positions, velocities, torques @ self.joints)

    def observation(self, states: th.Tensor) -> th.Tensor:
        angles, velocities = states.chunk(2, -1)
        return th.cat([angles.cos(), angles.sin(), velocities], -1)

    def reward(self, states: th.Tensor, actions: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:
        angles, velocities = states.chunk(2, -1)
        height = (1.0 + angles.cos().mean(-1)) / 2.0
        small_velocity = (1.0 + 0.1 ** ((velocities**2).mean(-1) / 25.0)) / 2.0
        return height * small_velocity

    def initial_state(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        like = self.torques
        angles = 2.0 * math.pi * th.rand(n, 2, generator=generator, dtype=like.dtype, device=like.device)
        return F.pad(angles, (0, 2))
