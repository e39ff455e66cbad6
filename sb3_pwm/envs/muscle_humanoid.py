"""
dm_control's humanoid with 152 muscles instead of its 21 motors.

Body, joints and rewards are those of dm_control. A muscle is a tendon with MuJoCo's muscle actuator (activation
dynamics, force by length and velocity). The tendon follows a path of sites, and slides over the round bones of hip,
knee, shoulder and elbow. ``muscles.json`` has the paths and the forces; ``tools/muscle_anatomy.py`` makes that file.

This module imports dm_control. Import it after :func:`sb3_pwm.envs.rendering.import_suite`, which chooses the graphics
library.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import mujoco
import numpy as np
from dm_control.mujoco import wrapper
from dm_control.rl import control
from dm_control.suite import base, humanoid
from numpy.typing import NDArray

_MUSCLE_COLOR = (0.75, 0.15, 0.15, 1.0)
_MUSCLE_WIDTH = 0.006  # meters, in images
_VELOCITY_SENSOR = "torso_subtreelinvel"
_BONE_HALF_LENGTH = 0.05  # meters, half the length of a cylinder in images; for muscles, cylinders are infinitely long

# Largest changes of the upright pose at the start of Balance
_LARGEST_ANGLE = 0.05  # rad
_LARGEST_VELOCITY = 0.15  # rad/s, and m/s of the whole body

FEET = ("left_left_foot", "right_left_foot", "left_right_foot", "right_right_foot")
"""Names of the geoms of the feet"""
UPRIGHT_HEIGHT = 1.47
"""Height of the head in meters from which Balance's reward does not rise further; 1.474 with straight legs"""
FALLEN_HEIGHT = 1.1
"""Height of the head in meters below which the body has fallen; 1.09 when it kneels"""
FALLEN_UPRIGHT = math.cos(math.radians(45.0))
"""Cosine of the torso's tilt below which the body has fallen"""
EFFORT_COST = 0.5
"""Share of Balance's reward that full activation of all muscles costs"""


@dataclasses.dataclass(frozen=True)
class Bone:
    """
    A round bone that muscles slide over: a geom without contacts and without mass.

    :param name: Name of the bone.
    :param body: Name of the body that the bone is fixed to.
    :param position: Center of the bone in the frame of the body, in meters.
    :param radius: Radius in meters.
    :param axis: Direction of a cylinder; None for a sphere.
    """

    name: str
    body: str
    position: tuple[float, float, float]
    radius: float
    axis: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    """
    A point of the path of a muscle.

    :param body: Name of the body that the point is fixed to.
    :param position: Position in the frame of the body, in meters.
    :param bone: Name of the bone that the muscle slides over after this point; empty for none.
    :param side: Point on the side of the bone on which the muscle passes, in the frame of the bone's body, in meters.
    """

    body: str
    position: tuple[float, float, float]
    bone: str = ""
    side: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Muscle:
    """
    A muscle.

    :param name: Name of the muscle, such as ``"right_soleus"``.
    :param joint: Name of the joint that the muscle mainly turns.
    :param direction: Sign of the muscle's torque on this joint, 1 or -1.
    :param path: Points of the path, from origin to insertion.
    :param force: Largest isometric force, in newtons.
    :param length_range: Shortest and longest length within the limits of the joints, in meters.
    """

    name: str
    joint: str
    direction: int
    path: tuple[Point, ...]
    force: float
    length_range: tuple[float, float]


def read_muscles() -> tuple[tuple[Bone, ...], tuple[Muscle, ...]]:
    """:return: Bones and the 152 muscles of ``muscles.json``."""

    def with_tuples(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    text = resources.files("sb3_pwm.envs").joinpath("muscles.json").read_text(encoding="utf-8")
    content = json.loads(text, object_hook=with_tuples)
    bones = tuple(Bone(**bone) for bone in content["bones"])
    muscles = tuple(
        Muscle(**{**muscle, "path": tuple(Point(**point) for point in muscle["path"])}) for muscle in content["muscles"]
    )
    return bones, muscles


def build_model(bones: Sequence[Bone], muscles: Sequence[Muscle]) -> mujoco.MjModel:
    """
    Build dm_control's humanoid with muscles as its only actuators.

    :param bones: Bones that muscles slide over.
    :param muscles: Muscles, in the order of the actuators.
    :return: MuJoCo's model.
    """
    xml, assets = humanoid.get_model_and_assets()
    spec = mujoco.MjSpec.from_string(xml, include=assets)
    for actuator in list(spec.actuators):
        spec.delete(actuator)
    # Force, torque and touch sensors take a tenth of the time of a step, and dm_control's tasks do not read them.
    for sensor in list(spec.sensors):
        if sensor.name != _VELOCITY_SENSOR:
            spec.delete(sensor)
    for bone in bones:
        shape: dict[str, Any] = {"type": mujoco.mjtGeom.mjGEOM_SPHERE, "pos": bone.position}
        if bone.axis is not None:
            end = np.array(bone.axis) / np.linalg.norm(bone.axis) * _BONE_HALF_LENGTH
            ends = np.concatenate([bone.position - end, bone.position + end])
            shape = {"type": mujoco.mjtGeom.mjGEOM_CYLINDER, "fromto": ends}
        spec.body(bone.body).add_geom(
            name=bone.name, size=[bone.radius, 0, 0], contype=0, conaffinity=0, mass=0.0, group=4, **shape
        )
    bodies = {bone.name: bone.body for bone in bones}
    for muscle in muscles:
        tendon = spec.add_tendon(name=muscle.name, rgba=_MUSCLE_COLOR, width=_MUSCLE_WIDTH)
        for number, point in enumerate(muscle.path):
            site = f"{muscle.name}_{number}"
            spec.body(point.body).add_site(name=site, pos=point.position, size=[0.004, 0, 0], group=4)
            tendon.wrap_site(site)
            if point.bone:
                spec.body(bodies[point.bone]).add_site(name=f"{site}_side", pos=point.side, size=[0.004, 0, 0], group=4)
                tendon.wrap_geom(point.bone, f"{site}_side")
        actuator = spec.add_actuator(
            name=muscle.name,
            trntype=mujoco.mjtTrn.mjTRN_TENDON,
            target=muscle.name,
            lengthrange=muscle.length_range,
            ctrllimited=True,
            ctrlrange=(0.0, 1.0),
        )
        actuator.set_to_muscle(force=muscle.force, tausmooth=0.0)
    return spec.compile()


def feet_height(model: mujoco.MjModel, data: mujoco.MjData) -> float:
    """
    Measure the height of the feet.

    :param model: The humanoid.
    :param data: State whose kinematics are computed.
    :return: Distance between the floor and the lowest point of the feet, in meters; negative in the floor.
    """
    floor = model.geom("floor").id
    feet = [model.geom(name).id for name in FEET]
    return min(mujoco.mj_geomDistance(model, data, floor, foot, math.inf, None) for foot in feet)


class Physics(humanoid.Physics):  # type: ignore[misc]
    """
    dm_control's physics of the humanoid, with the state of the muscles.

    Indices of bodies are looked up by name once, and not at every step as dm_control does.
    """

    @functools.cached_property
    def _torso(self) -> int:
        return int(self.model.name2id("torso", "body"))

    @functools.cached_property
    def _head(self) -> int:
        return int(self.model.name2id("head", "body"))

    @functools.cached_property
    def _extremities(self) -> list[int]:
        return [
            int(self.model.name2id(side + limb, "body")) for side in ("left_", "right_") for limb in ("hand", "foot")
        ]

    def torso_upright(self) -> np.float64:
        """:return: z component of the z axis of the torso."""
        return self.data.xmat[self._torso, 8]

    def head_height(self) -> np.float64:
        """:return: Height of the head in meters."""
        return self.data.xpos[self._head, 2]

    def center_of_mass_velocity(self) -> NDArray[np.float64]:
        """:return: Velocity of the center of mass ``(3,)``, in m/s."""
        return self.data.sensordata[:3].copy()

    def torso_vertical_orientation(self) -> NDArray[np.float64]:
        """:return: z components of the three axes of the torso, ``(3,)``."""
        return self.data.xmat[self._torso, 6:].copy()

    def extremities(self) -> NDArray[np.float64]:
        """:return: Positions in meters of left hand, left foot, right hand and right foot from the torso, ``(12,)``."""
        offsets = self.data.xpos[self._extremities] - self.data.xpos[self._torso]
        return (offsets @ self.data.xmat[self._torso].reshape(3, 3)).ravel()

    @functools.cached_property
    def _length_range(self) -> NDArray[np.float64]:
        return self.model.actuator_lengthrange[:, 1] - self.model.actuator_lengthrange[:, 0]

    def muscle_lengths(self) -> NDArray[np.float64]:
        """:return: Lengths ``(152,)``, scaled from the range within the limits of the joints to [0, 1]."""
        return (self.data.actuator_length - self.model.actuator_lengthrange[:, 0]) / self._length_range

    def muscle_velocities(self) -> NDArray[np.float64]:
        """:return: Time derivatives of the scaled lengths ``(152,)``, in 1/s."""
        return self.data.actuator_velocity / self._length_range

    def muscle_activations(self) -> NDArray[np.float64]:
        """:return: Activations ``(152,)``, in [0, 1]."""
        return self.data.act.copy()


class MuscleHumanoid(humanoid.Humanoid):  # type: ignore[misc]
    """
    dm_control's task of the humanoid, with the state of the muscles in the observation.

    :param move_speed: Speed to reach in m/s; 0 to stand still.
    :param random: Seed or random state, as for dm_control's tasks.
    """

    def __init__(self, move_speed: float, random: Any = None) -> None:
        super().__init__(move_speed=move_speed, pure_state=False, random=random)

    def get_observation(self, physics: Physics) -> dict[str, Any]:
        """:return: dm_control's entries, and lengths, velocities and activations of the muscles, ``(152,)`` each."""
        observation = super().get_observation(physics)
        observation["muscle_lengths"] = physics.muscle_lengths()
        observation["muscle_velocities"] = physics.muscle_velocities()
        observation["muscle_activations"] = physics.muscle_activations()
        return observation  # type: ignore[no-any-return]

    def get_reward(self, physics: Physics) -> float:
        """:return: dm_control's reward of the humanoid."""
        # dm_control's own function takes 10% of the time of a step. This one takes a tenth of that.
        low = max(humanoid._STAND_HEIGHT - float(physics.head_height()), 0.0) / (humanoid._STAND_HEIGHT / 4)
        standing = 0.1 ** (low * low)
        upright = min(max(1.0 - (0.9 - float(physics.torso_upright())) / 1.9, 0.0), 1.0)
        control = physics.data.ctrl
        small_control = (5.0 - float(control @ control) / len(control)) / 5  # controls are in [0, 1]
        x, y, _ = physics.center_of_mass_velocity().tolist()
        if self._move_speed == 0:
            moving = (0.1 ** (x * x / 4) + 0.1 ** (y * y / 4)) / 2
        else:
            moving = (5 * min(math.hypot(x, y) / self._move_speed, 1.0) + 1) / 6
        return small_control * standing * upright * moving


class Balance(MuscleHumanoid):
    """
    Keep the balance. An episode starts with the body upright, and ends when it falls.

    The reward of a control step is the product of three numbers in [0, 1]. Two of them are linear in the height of the
    head and in the cosine of the torso's tilt: 1 in the upright pose, and 0 where the episode ends. The third one is
    ``1 - EFFORT_COST * mean(activations ** 2)``.

    The muscles start relaxed. Equal activations of all muscles do not hold the body, because the muscles that stretch
    it are stronger than those that bend it.

    :param perturbation: Scale of the random changes of the upright pose. With 1, the angle of each joint changes by up
        to 0.05 rad, and each velocity by up to 0.15 rad/s or 0.15 m/s. With 0, all episodes start alike.
    :param random: Seed or random state, as for dm_control's tasks.
    """

    def __init__(self, perturbation: float = 1.0, random: Any = None) -> None:
        super().__init__(move_speed=0.0, random=random)
        self.perturbation = perturbation

    def initialize_episode(self, physics: Physics) -> None:
        """Put the body on its feet, with random changes of the upright pose."""
        data, scale = physics.data, self.perturbation
        low, high = physics.model.jnt_range[1:].T  # the first joint is the free motion of the body
        angles = scale * self.random.uniform(-_LARGEST_ANGLE, _LARGEST_ANGLE, len(low))
        data.qpos[7:] = np.clip(angles, low, high)
        data.qvel[:] = scale * self.random.uniform(-_LARGEST_VELOCITY, _LARGEST_VELOCITY, len(data.qvel))
        physics.after_reset()
        data.qpos[2] -= feet_height(physics.model.ptr, data.ptr)
        base.Task.initialize_episode(self, physics)

    def get_reward(self, physics: Physics) -> float:
        """:return: Product of height, uprightness and lack of effort, in [0, 1]."""
        height = (float(physics.head_height()) - FALLEN_HEIGHT) / (UPRIGHT_HEIGHT - FALLEN_HEIGHT)
        upright = (float(physics.torso_upright()) - FALLEN_UPRIGHT) / (1.0 - FALLEN_UPRIGHT)
        activations = physics.data.act
        effort = float(activations @ activations) / len(activations)
        return min(max(height, 0.0), 1.0) * max(upright, 0.0) * (1.0 - EFFORT_COST * effort)

    def get_termination(self, physics: Physics) -> float | None:
        """:return: Discount 0 if the body has fallen, else None."""
        fallen = physics.head_height() < FALLEN_HEIGHT or physics.torso_upright() < FALLEN_UPRIGHT
        return 0.0 if fallen else None


SPEEDS = {"stand": 0.0, "walk": float(humanoid._WALK_SPEED), "run": float(humanoid._RUN_SPEED)}
"""Speed to reach in m/s, by task"""


def load(task: str, random: Any = None) -> control.Environment:
    """
    Make the environment of a task.

    :param task: ``"stand"``, ``"walk"``, ``"run"`` or ``"balance"``.
    :param random: Seed or random state of the task.
    :return: The environment.
    """
    physics = Physics.from_model(wrapper.MjModel(build_model(*read_muscles())))
    return control.Environment(
        physics,
        Balance(random=random) if task == "balance" else MuscleHumanoid(SPEEDS[task], random),
        time_limit=humanoid._DEFAULT_TIME_LIMIT,
        control_timestep=humanoid._CONTROL_TIMESTEP,
    )
