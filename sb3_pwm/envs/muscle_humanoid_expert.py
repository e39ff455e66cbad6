"""
A controller that keeps the muscle humanoid's balance. It makes offline data for ``Muscle-humanoid-balance``.

The controller is a linear-quadratic regulator (LQR) of the body and its muscles together, computed from the model. As
in MuJoCo's tutorial on LQR, the dynamics are linearized about a standing pose by finite differences: through contacts,
forces and activations of the muscles.

This module imports dm_control. Import it after :func:`sb3_pwm.envs.rendering.import_suite`, which chooses the graphics
library.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, root

from sb3_pwm.envs.muscle_humanoid import build_model, feet_height, read_muscles

Array = NDArray[Any]

TONIC_LEVEL = 0.35
"""Activation of the muscles in the standing pose, as far as the pose allows: a lower one tolerates less noise"""
_PHYSICS_STEPS = 10  # per agent step: two control steps of 25 ms
_KNEE_ANGLE = 0.2  # rad, so that the knees can give way in both directions
_POSITION_COST = 30.0  # of a squared deviation in m or rad, relative to a squared deviation of an excitation
_HORIZON = 40  # agent steps. A horizon of 100 changes the result little.
# Sizes of the entries of the observation, see MuscleHumanoid.get_observation
_ENTRIES = (21, 1, 12, 3, 3, 27, 152, 152, 152)


class BalanceExpert:
    """
    The controller. It reads all that it needs from the observation.

    The excitations are those that hold the standing pose, plus a linear function of the deviation from this pose. They
    are clipped to [0, 1].
    """

    def __init__(self) -> None:
        model = build_model(*read_muscles())
        pose = standing_pose(model)
        self.excitations = holding_excitations(model, pose, TONIC_LEVEL)
        """Excitations ``(152,)`` that hold the standing pose without any feedback, in [0, 1]"""
        self._height = float(pose.body("head").xpos[2])
        self._vertical = pose.body("torso").xmat[6:].copy()
        self._angles = pose.qpos[7:].copy()
        transition, effect = linearize(model, pose, self.excitations, _PHYSICS_STEPS)
        costs = np.zeros(len(transition))
        costs[: model.nv] = _POSITION_COST
        costs[[0, 1, 5]] = 0.0  # place and heading do not matter
        self._gain = lqr_gain(transition, effect, np.diag(costs), _HORIZON)

    def __call__(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """
        Choose an action.

        :param observation: Observation ``(523,)`` of ``Muscle-humanoid-balance``.
        :return: Action ``(152,)`` in [-1, 1].
        """
        parts = np.split(observation.astype(np.float64), np.cumsum(_ENTRIES)[:-1])
        angles, height, _, vertical, _, velocities, _, _, activations = parts
        # Place and heading, which the observation does not have, are set to 0. The rotation is exact for small tilts.
        tilt = vertical - self._vertical
        body = [0.0, 0.0, height[0] - self._height, tilt[1], -tilt[0], 0.0]
        deviation = np.concatenate([body, angles - self._angles, velocities, activations - self.excitations])
        excitations = self.excitations - self._gain @ deviation
        return np.clip(2.0 * excitations - 1.0, -1.0, 1.0).astype(np.float32)


def standing_pose(model: mujoco.MjModel) -> mujoco.MjData:
    """
    Find an equilibrium of the body with slightly bent knees and flat feet.

    :param model: The humanoid with its muscles.
    :return: State in which the floor carries the body. ``qfrc_inverse`` holds the torques that the joints need.
    """
    data = mujoco.MjData(model)

    def imbalance(unknowns: Array) -> Array:
        """:return: Vertical force in kN and pitching torque in kNm that the body lacks, and tilt of the feet in rad."""
        depth, lean, ankle = unknowns  # depth of the feet in the soft floor in m, angles of torso and ankles in rad
        data.qpos[:] = model.qpos0
        data.qpos[3:7] = np.cos(lean / 2), 0.0, np.sin(lean / 2), 0.0
        for side in ("right", "left"):
            data.joint(f"{side}_knee").qpos = -_KNEE_ANGLE
            data.joint(f"{side}_hip_y").qpos = -_KNEE_ANGLE / 2
            data.joint(f"{side}_ankle_y").qpos = ankle
        mujoco.mj_kinematics(model, data)
        data.qpos[2] -= feet_height(model, data) + depth
        mujoco.mj_inverse(model, data)  # velocities and accelerations are 0
        force, torque = data.qfrc_inverse[[2, 4]] / 1000.0
        return np.array([force, torque, data.body("right_foot").xmat[2]])

    result = root(imbalance, [0.001, 0.0, -_KNEE_ANGLE / 2])
    assert result.success, result.message
    return data


def holding_excitations(model: mujoco.MjModel, pose: mujoco.MjData, level: float) -> Array:
    """
    Find the excitations nearest to a level that hold a pose.

    :param model: The humanoid with its muscles.
    :param pose: The pose, with the torques that it needs in ``qfrc_inverse``.
    :param level: The level, in [0, 1].
    :return: Excitations ``(152,)``, in [0, 1].
    """
    needed = pose.qfrc_inverse[6:].copy()

    def torques(activations: Array) -> Array:
        """:return: Torques of the muscles on the joints, ``(21,)`` in Nm. They are linear in the activations."""
        pose.act[:] = activations
        mujoco.mj_forward(model, pose)
        return pose.qfrc_actuator[6:].copy()

    passive = torques(np.zeros(model.na))
    active = np.stack([torques(one) - passive for one in np.eye(model.na)], axis=1)  # (21, 152)
    weight = 1000.0  # the torques must be met, the level need not
    matrix = np.concatenate([np.eye(model.na), weight * active])
    target = np.concatenate([np.full(model.na, level), weight * (needed - passive)])
    return np.asarray(lsq_linear(matrix, target, (0.0, 1.0)).x)


def linearize(model: mujoco.MjModel, pose: mujoco.MjData, excitations: Array, n_steps: int) -> tuple[Array, Array]:
    """
    Linearize the dynamics about an equilibrium, for excitations that are held over several physics steps.

    :param model: The model.
    :param pose: State of the equilibrium.
    :param excitations: Excitations of the equilibrium ``(A,)``.
    :param n_steps: Number of physics steps.
    :return: Matrices of the next state's derivatives with respect to the state ``(X, X)`` and to the excitations
        ``(X, A)``. The state is position, velocity (``nv`` each) and activation.
    """
    pose.act[:] = pose.ctrl[:] = excitations
    size = 2 * model.nv + model.na
    step, effect_of_step = np.zeros((size, size)), np.zeros((size, model.nu))
    mujoco.mjd_transitionFD(model, pose, 1e-6, True, step, effect_of_step, None, None)
    transition, effect = np.eye(size), np.zeros((size, model.nu))
    for _ in range(n_steps):
        transition, effect = step @ transition, step @ effect + effect_of_step
    return transition, effect


def lqr_gain(transition: Array, effect: Array, costs: Array, horizon: int) -> Array:
    """
    Compute the gain of a linear-quadratic regulator by dynamic programming over a finite horizon.

    With the place of the body among the states, which costs nothing and does not decay, the equation of the infinite
    horizon has no stabilizing solution.

    :param transition: Derivatives of the next state with respect to the state, ``(X, X)``.
    :param effect: Derivatives of the next state with respect to the control, ``(X, A)``.
    :param costs: Quadratic costs of the state ``(X, X)``. Those of the control are the identity matrix.
    :param horizon: Number of steps.
    :return: Gain ``(A, X)`` of the first step: the best control is minus the gain times the state.
    """
    value = costs
    gain: Array = np.zeros(effect.T.shape)
    for _ in range(horizon):
        gain = np.linalg.solve(np.eye(effect.shape[1]) + effect.T @ value @ effect, effect.T @ value @ transition)
        value = costs + transition.T @ value @ (transition - effect @ gain)
        value = (value + value.T) / 2  # rounding errors of the antisymmetric part would grow
    return gain
