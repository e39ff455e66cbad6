"""A planar hopper on soft ground."""

from __future__ import annotations

import math

import torch as th
import torch.nn.functional as F

from sb3_pwm.envs.differentiable.links import PlanarLinks, capsule_inertia
from sb3_pwm.envs.differentiable.simulator import Simulator, semi_implicit_euler_step

TORSO, THIGH, SHANK, HEEL, TOE = 0.4, 0.45, 0.5, 0.13, 0.26
"""Lengths of the links in m; heel and toe from the ankle"""
RADIUS = 0.05
"""Radius of the links in m"""
MASSES = (8.0, 3.0, 2.0, 2.0)
"""Masses of torso, thigh, shank and foot in kg"""
TORQUES = (40.0, 100.0, 40.0)
"""Torques of the motors at hip, knee and ankle in N m"""
ROTOR, DAMPING = 0.1, 1.0
"""Inertia in kg m^2 and damping in N m s of the motor in each joint"""
LOWEST_ANGLES, HIGHEST_ANGLES = (-1.8, 0.0, -1.2), (0.8, 2.4, 0.8)
"""Range of the joints in rad. A straight leg is zero, and so is a foot at right angles. A bent knee points forwards."""
LIMIT_STIFFNESS = 500.0
"""Stiffness of the springs at the ends of these ranges in N m per rad"""
STIFFNESS, DISSIPATION = 2e4, 1.0
"""Of the ground, in N/m and s/m. The hopper sinks in by 4 mm where it stands on heel and toe."""
FRICTION, VISCOSITY = 1.0, 1e3
"""Ground's coefficient of friction, and its force per speed on a point that hardly slides, in N s/m"""
STANDING = (0.0, 0.88, 0.0, -0.5, 0.5, math.pi / 2)
"""Positions of the hopper that stands with a bent knee"""
LOWEST_HEAD = 0.9
"""Height of the head in m below which the hopper has fallen. It stands at 1.28."""


class HopperHop(Simulator):
    """
    A leg with motors at hip, knee and ankle that carries a torso, of about the size and mass of Gymnasium's Hopper.

    The reward of a step is the speed of the center of mass forwards in m/s, plus the height of the head in m. The
    episode ends when the head is below 0.9 m.

    The ground is a spring and damper under head, hip, knee, heel and toe, with smooth friction:

    - It pushes a point at the depth d by ``k d (1 + c d')`` and never pulls it: the damping grows with the depth (Hunt
      and Crossley, 1975), so that the force is continuous at the first touch.
    - Friction is the speed of the point times a viscosity, and never more than the coefficient times the push. A
      hopper that stands on a slope would creep.

    Equations of motion: :class:`~sb3_pwm.envs.differentiable.links.PlanarLinks`. They are integrated by Euler's
    semi-implicit method in steps of 2.5 ms.

    The state is x and z of the hip, the absolute angles of torso, thigh, shank and foot, and their velocities. The
    observation is z of the hip, the angle of the torso, the angles of the joints, and the velocities of x, z and these
    angles.
    """

    observation_dim = 11
    action_dim = 3
    substeps = 8
    integrator_step = staticmethod(semi_implicit_euler_step)

    joints: th.Tensor
    right_angle: th.Tensor
    points: th.Tensor
    torques: th.Tensor
    lowest: th.Tensor
    highest: th.Tensor
    standing: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        lengths = (TORSO, THIGH, SHANK, HEEL + TOE)
        inertias = [capsule_inertia(mass, length, RADIUS) for mass, length in zip(MASSES, lengths, strict=True)]
        centers = [
            [TORSO / 2, 0.0, 0.0, 0.0],
            [0.0, -THIGH / 2, 0.0, 0.0],
            [0.0, -THIGH, -SHANK / 2, 0.0],
            [0.0, -THIGH, -SHANK, (TOE - HEEL) / 2],
        ]
        points = [  # head, hip, knee, heel and toe
            [TORSO, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0],
            [0.0, -THIGH, 0.0, 0.0],
            [0.0, -THIGH, -SHANK, -HEEL],
            [0.0, -THIGH, -SHANK, TOE],
        ]
        joints = th.tensor([[-1.0, 1.0, 0.0, 0.0], [0.0, -1.0, 1.0, 0.0], [0.0, 0.0, -1.0, 1.0]])
        self.links = PlanarLinks(MASSES, inertias, centers, free=2, rotors=ROTOR * joints.T @ joints)
        self.register_buffer("joints", joints)  # (3, 4) angles of the joints by those of the links
        self.register_buffer("right_angle", th.tensor([0.0, 0.0, math.pi / 2]))
        self.register_buffer("points", self.links.with_base(th.tensor(points)))  # (P, 6)
        self.register_buffer("torques", th.tensor(TORQUES))
        self.register_buffer("lowest", th.tensor(LOWEST_ANGLES))
        self.register_buffer("highest", th.tensor(HIGHEST_ANGLES))
        self.register_buffer("standing", th.tensor(STANDING))

    def accelerations(self, positions: th.Tensor, velocities: th.Tensor, actions: th.Tensor) -> th.Tensor:
        angles, rates = self.joint_angles(positions), velocities[..., 2:] @ self.joints.T
        beyond = angles - angles.clamp(self.lowest, self.highest)
        torques = self.torques * actions - DAMPING * rates - LIMIT_STIFFNESS * beyond
        pushes = self.ground_forces(positions, velocities) @ self.points  # (..., 2, 6)
        forces = (self.links.tangents(positions) * pushes).sum(-2) + F.pad(torques @ self.joints, (2, 0))
        return self.links.accelerations(positions, velocities, forces)

    def joint_angles(self, positions: th.Tensor) -> th.Tensor:
        """
        :param positions: ``(..., 6)``
        :return: Angles ``(..., 3)`` of hip, knee and ankle in rad.
        """
        return positions[..., 2:] @ self.joints.T - self.right_angle

    def ground_forces(self, positions: th.Tensor, velocities: th.Tensor) -> th.Tensor:
        """
        :param positions: ``(..., 6)``
        :param velocities: ``(..., 6)``
        :return: Forces ``(..., 2, P)`` of the ground on head, hip, knee, heel and toe, along x and z in N.
        """
        heights = positions[..., 1:2] + positions[..., 2:].cos() @ self.points[:, 2:].T  # (..., P)
        along, upwards = self.links.point_velocities(self.points, positions, velocities).unbind(-2)
        normal = STIFFNESS * F.relu(RADIUS - heights) * F.relu(1.0 - DISSIPATION * upwards)
        viscous, largest = VISCOSITY * along, FRICTION * normal
        friction = -viscous * largest / (viscous**2 + largest**2 + 1e-6).sqrt()
        return th.stack([friction, normal], -2)

    def observation(self, states: th.Tensor) -> th.Tensor:
        positions, velocities = states.chunk(2, -1)
        rates = velocities[..., 2:] @ self.joints.T
        return th.cat([positions[..., 1:3], self.joint_angles(positions), velocities[..., :3], rates], -1)

    def reward(self, states: th.Tensor, actions: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:
        positions, velocities = states.chunk(2, -1)
        center = self.links.point_velocities(self.links.center.unsqueeze(0), positions, velocities)  # (..., 2, 1)
        return center[..., 0, 0] + self.head(states)

    def head(self, states: th.Tensor) -> th.Tensor:
        """
        :param states: States ``(..., S)``.
        :return: Height ``(...)`` of the head in m.
        """
        return states[..., 1] + TORSO * states[..., 2].cos()

    def continuation(self, states: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:
        return (self.head(states) > LOWEST_HEAD).to(states.dtype)

    def initial_state(self, n: int, generator: th.Generator | None = None) -> th.Tensor:
        standing = F.pad(self.standing, (0, 6))
        return standing + 0.01 * th.randn(n, 12, generator=generator, dtype=standing.dtype, device=standing.device)
