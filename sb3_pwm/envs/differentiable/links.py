"""Equations of motion of rigid links in a vertical plane."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
import torch.nn.functional as F
from torch import nn

GRAVITY = 9.81


class PlanarLinks(nn.Module):
    """
    Rigid links that are joined to each other, in a vertical plane.

    The angle of a link is absolute: zero is upright, and positive leans towards x. With u(a) = (sin a, cos a), every
    point of the links is the base plus ``sum_j c_j u(theta_j)`` with constants ``c_j``. The coordinates q are those of
    the base that are free, then the angles. They move the point by ``sum_j c_j t_j q_j'``, where ``t_j`` is the unit
    vector of a coordinate of the base (``c_j`` is one), or the derivative of ``u(theta_j)``.

    Lagrange's equations are short in these coordinates. With the constants ``c_ij`` of the centers of mass, and
    ``A_jk = sum_i m_i c_ij c_ik``, the kinetic energy is the sum of ``A_jk (t_j . t_k) q_j' q_k' / 2`` and of the
    links' rotation, and the potential energy has the derivatives ``g sum_i m_i c_ij t_j . z``. It follows::

        sum_k (A_jk t_j . t_k + I_jk) q_k'' = t_j . (sum_k A_jk u(theta_k) theta_k'^2 - g sum_i m_i c_ij z) + force_j

    The tests compare the motion with MuJoCo's.

    :param masses: Masses of the L links in kg.
    :param inertias: Moments of inertia of the links about their centers of mass, in kg m^2.
    :param centers: Constants of the links' centers of mass, ``L`` rows of ``L`` numbers, in m.
    :param free: Number of coordinates in which the base moves: 0 if it is fixed, 1 for x, 2 for x and z. N is
        ``free + L``.
    :param base_mass: Mass at the base, in kg.
    :param rotors: ``(L, L)`` inertia of the angles that the motors in the joints add, in kg m^2. None: nothing.
    """

    coupling: th.Tensor
    inertia: th.Tensor
    weight: th.Tensor
    center: th.Tensor
    """``(N,)`` constants of the center of mass of all links and the base"""
    axes: th.Tensor

    def __init__(
        self,
        masses: Sequence[float],
        inertias: Sequence[float],
        centers: Sequence[Sequence[float]],
        free: int = 0,
        base_mass: float = 0.0,
        rotors: th.Tensor | None = None,
    ):
        super().__init__()
        self.free = free
        constants = self.with_base(th.tensor([[0.0] * len(masses), *centers]))  # (1 + L, N), the base first
        mass = th.tensor([base_mass, *masses])
        self.register_buffer("coupling", constants.T @ (mass.unsqueeze(-1) * constants))  # (N, N)
        inertia = th.diag(th.tensor(inertias)) if rotors is None else th.diag(th.tensor(inertias)) + rotors
        self.register_buffer("inertia", F.pad(inertia, (free, 0, free, 0)))  # (N, N)
        moments = mass @ constants  # (N,)
        self.register_buffer("weight", GRAVITY * th.stack([th.zeros_like(moments), moments]))  # (2, N)
        self.register_buffer("center", moments / mass.sum())
        self.register_buffer("axes", th.eye(2)[:, :free])

    def with_base(self, constants: th.Tensor) -> th.Tensor:
        """
        :param constants: Constants ``(P, L)`` of points of the links.
        :return: ``(P, N)``, with those of the base.
        """
        return th.cat([th.ones(len(constants), self.free), constants], -1)

    def tangents(self, positions: th.Tensor) -> th.Tensor:
        """
        :param positions: ``(..., N)``, in m and rad.
        :return: ``(..., 2, N)`` the vectors ``t_j``.
        """
        angles = positions[..., self.free :]
        tangents = th.stack([angles.cos(), -angles.sin()], -2)
        return th.cat([self.axes.expand(*tangents.shape[:-1], self.free), tangents], -1)

    def point_velocities(self, constants: th.Tensor, positions: th.Tensor, velocities: th.Tensor) -> th.Tensor:
        """
        :param constants: Constants ``(P, N)`` of points, see :meth:`with_base`.
        :param positions: ``(..., N)``
        :param velocities: ``(..., N)``
        :return: Velocities ``(..., 2, P)`` of the points along x and z.
        """
        return (self.tangents(positions) * velocities.unsqueeze(-2)) @ constants.T

    def accelerations(self, positions: th.Tensor, velocities: th.Tensor, forces: th.Tensor) -> th.Tensor:
        """
        Solve the equations of motion.

        :param positions: ``(..., N)``, in m and rad.
        :param velocities: ``(..., N)``
        :param forces: ``(..., N)`` forces on the coordinates other than gravity, in N and N m.
        :return: Accelerations ``(..., N)``.
        """
        tangents = self.tangents(positions)
        inertia = self.coupling * (tangents.mT @ tangents) + self.inertia  # (..., N, N)
        x, z = tangents[..., self.free :].unbind(-2)
        directions = th.stack([-z, x], -2)  # (..., 2, L) of the links
        pulls = (directions * velocities[..., None, self.free :] ** 2) @ self.coupling[self.free :]  # (..., 2, N)
        return th.linalg.solve(inertia, forces + (tangents * (pulls - self.weight)).sum(-2))


def capsule_inertia(mass: float, length: float, radius: float) -> float:
    """
    :param mass: Mass of a capsule in kg.
    :param length: Length of its cylinder in m.
    :param radius: Radius of cylinder and half spheres in m.
    :return: Moment of inertia about the center, across the axis, in kg m^2.
    """
    cylinder = mass * length / (length + 4.0 / 3.0 * radius)
    spheres = mass - cylinder
    of_cylinder = cylinder * (length**2 / 12.0 + radius**2 / 4.0)
    return of_cylinder + spheres * (0.4 * radius**2 + length**2 / 4.0 + 0.375 * length * radius)
