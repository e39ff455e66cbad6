"""
dm_control's humanoid, moved by 152 muscles in place of its 21 motors.

The body, its joints and the rewards are dm_control's own. Each muscle is a tendon along a path of sites, over the
round bones of hip, knee, shoulder and elbow, with MuJoCo's muscle actuator (activation dynamics, force by length and
velocity). `muscles.json` says where they run and how strong they are; `tools/muscle_anatomy.py` makes that file.
This module imports dm_control: import it after :func:`sb3_pwm.envs.rendering.import_suite` has chosen how to draw.
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
from dm_control.suite import humanoid
from numpy.typing import NDArray

_MUSCLE_COLOR = (0.75, 0.15, 0.15, 1.0)
_MUSCLE_WIDTH = 0.006  # meters, as drawn
_VELOCITY_SENSOR = "torso_subtreelinvel"
_BONE_HALF_LENGTH = 0.05  # meters, of a cylinder as drawn; muscles take it to be endless


@dataclasses.dataclass(frozen=True)
class Bone:
    """
    A round bone that muscles slide over: a geom that touches nothing and weighs nothing.

    :param name: Its name.
    :param body: The body that it is part of.
    :param position: Its center in that body's frame, in meters.
    :param radius: In meters.
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
    A point of a muscle's path.

    :param body: The body that it is fixed to.
    :param position: In that body's frame, in meters.
    :param bone: Name of the bone that the muscle passes over after this point; "" for none.
    :param side: Where that bone is passed, in the frame of the bone's body.
    """

    body: str
    position: tuple[float, float, float]
    bone: str = ""
    side: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Muscle:
    """
    One muscle.

    :param name: Its name, such as ``"right_soleus"``.
    :param joint: The joint that it is chiefly there for.
    :param direction: The sign of its torque there, 1 or -1.
    :param path: From origin to insertion.
    :param force: Largest isometric force, in newtons.
    :param length_range: Shortest and longest that the joints' limits allow, in meters.
    """

    name: str
    joint: str
    direction: int
    path: tuple[Point, ...]
    force: float
    length_range: tuple[float, float]


def read_muscles() -> tuple[tuple[Bone, ...], tuple[Muscle, ...]]:
    """:return: The bones and the 152 muscles of the package's model."""

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
    :param bones: What muscles slide over.
    :param muscles: The muscles, in the order of the actuators.
    :return: dm_control's humanoid with these muscles as its only actuators.
    """
    xml, assets = humanoid.get_model_and_assets()
    spec = mujoco.MjSpec.from_string(xml, include=assets)
    for actuator in list(spec.actuators):
        spec.delete(actuator)
    # A tenth of the time of a step goes to force, torque and touch sensors, which dm_control's tasks do not read.
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


class Physics(humanoid.Physics):  # type: ignore[misc]
    """dm_control's humanoid with the state of its muscles; what it looks up by name at every step is looked up once."""

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
        """:return: The z component of the torso's z axis."""
        return self.data.xmat[self._torso, 8]

    def head_height(self) -> np.float64:
        """:return: In meters."""
        return self.data.xpos[self._head, 2]

    def center_of_mass_velocity(self) -> NDArray[np.float64]:
        """:return: (3,), in m/s."""
        return self.data.sensordata[:3].copy()

    def torso_vertical_orientation(self) -> NDArray[np.float64]:
        """:return: (3,), the z components of the torso's axes."""
        return self.data.xmat[self._torso, 6:].copy()

    def extremities(self) -> NDArray[np.float64]:
        """:return: (12,), left hand, left foot, right hand, right foot in the torso's frame, in meters."""
        offsets = self.data.xpos[self._extremities] - self.data.xpos[self._torso]
        return (offsets @ self.data.xmat[self._torso].reshape(3, 3)).ravel()

    @functools.cached_property
    def _length_range(self) -> NDArray[np.float64]:
        return self.model.actuator_lengthrange[:, 1] - self.model.actuator_lengthrange[:, 0]

    def muscle_lengths(self) -> NDArray[np.float64]:
        """:return: (152,), from 0 at the shortest to 1 at the longest that the joints' limits allow."""
        return (self.data.actuator_length - self.model.actuator_lengthrange[:, 0]) / self._length_range

    def muscle_velocities(self) -> NDArray[np.float64]:
        """:return: (152,), change of the lengths in 1/s."""
        return self.data.actuator_velocity / self._length_range

    def muscle_activations(self) -> NDArray[np.float64]:
        """:return: (152,), in [0, 1]."""
        return self.data.act.copy()


class MuscleHumanoid(humanoid.Humanoid):  # type: ignore[misc]
    """
    dm_control's humanoid task; observed are the state of the muscles, too.

    :param move_speed: The speed to reach in m/s; 0 to stand still.
    :param random: See dm_control's tasks.
    """

    def __init__(self, move_speed: float, random: Any = None) -> None:
        super().__init__(move_speed=move_speed, pure_state=False, random=random)

    def get_observation(self, physics: Physics) -> dict[str, Any]:
        """:return: dm_control's entries, then lengths, velocities and activations of the muscles, (152,) each."""
        observation = super().get_observation(physics)
        observation["muscle_lengths"] = physics.muscle_lengths()
        observation["muscle_velocities"] = physics.muscle_velocities()
        observation["muscle_activations"] = physics.muscle_activations()
        return observation  # type: ignore[no-any-return]

    def get_reward(self, physics: Physics) -> float:
        """:return: dm_control's reward of the humanoid, in a tenth of its time: a step's share of that is 10%."""
        low = max(humanoid._STAND_HEIGHT - float(physics.head_height()), 0.0) / (humanoid._STAND_HEIGHT / 4)
        standing = 0.1 ** (low * low)
        upright = min(max(1.0 - (0.9 - float(physics.torso_upright())) / 1.9, 0.0), 1.0)
        control = physics.data.ctrl
        small_control = (5.0 - float(control @ control) / len(control)) / 5  # excitations lie in [0, 1]
        x, y, _ = physics.center_of_mass_velocity().tolist()
        if self._move_speed == 0:
            moving = (0.1 ** (x * x / 4) + 0.1 ** (y * y / 4)) / 2
        else:
            moving = (5 * min(math.hypot(x, y) / self._move_speed, 1.0) + 1) / 6
        return small_control * standing * upright * moving


SPEEDS = {"stand": 0.0, "walk": float(humanoid._WALK_SPEED), "run": float(humanoid._RUN_SPEED)}
"""Speed to reach in m/s, by task."""


def load(task: str, random: Any = None) -> control.Environment:
    """
    :param task: ``"stand"``, ``"walk"`` or ``"run"``.
    :param random: See ``dm_control.suite.load``.
    :return: The environment.
    """
    physics = Physics.from_model(wrapper.MjModel(build_model(*read_muscles())))
    return control.Environment(
        physics,
        MuscleHumanoid(SPEEDS[task], random),
        time_limit=humanoid._DEFAULT_TIME_LIMIT,
        control_timestep=humanoid._CONTROL_TIMESTEP,
    )
