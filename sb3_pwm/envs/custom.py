"""
The 11 tasks that MT30 adds to dm_control's suite (TD-MPC2, arXiv 2310.16828, appendix).

They have the models, observations and start states of dm_control, with a third link for the reacher and other starts
for the ball in the cup. The rewards are those of TD-MPC2's code, so that scores can be compared.

This module imports dm_control. Import it after :func:`sb3_pwm.envs.rendering.import_suite`, which chooses the graphics
library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from dm_control import mjcf
from dm_control.rl import control
from dm_control.suite import ball_in_cup, base, cheetah, common, hopper, pendulum, reacher, walker
from dm_control.utils.rewards import tolerance

INFINITY = float("inf")


def at_least(value: float, goal: float) -> float:
    """
    Reward a value in proportion to a goal.

    :param value: The value.
    :param goal: Value from which the reward is one.
    :return: ``value / goal``, clipped to [0, 1].
    """
    return float(tolerance(value, bounds=(goal, INFINITY), margin=goal, value_at_margin=0.0, sigmoid="linear"))


class BackwardsWalker(walker.PlanarWalker):  # type: ignore[misc]
    """
    Walk or run backwards. The reward is dm_control's, with the opposite sign of the velocity.

    :param move_speed: Speed to reach, in m/s.
    :param random: Seed or random state, as for dm_control's tasks.
    """

    def get_reward(self, physics: Any) -> float:
        height = tolerance(
            physics.torso_height(), bounds=(walker._STAND_HEIGHT, INFINITY), margin=walker._STAND_HEIGHT / 2
        )
        standing = (3 * height + (1 + physics.torso_upright()) / 2) / 4
        moving = at_least(-physics.horizontal_velocity(), self._move_speed)
        return float(standing * (5 * moving + 1) / 6)


class BackwardsCheetah(cheetah.Cheetah):  # type: ignore[misc]
    """Run backwards at 8 m/s or more."""

    SPEED = 8.0

    def get_reward(self, physics: Any) -> float:
        return at_least(-physics.speed(), self.SPEED)


# Height in meters from which torso and feet count as lifted
_CHEETAH_UP = 1.2


def _cheetah_up(height: float) -> float:
    """:return: Reward from 0 to 1 for the height of torso or feet."""
    return float(tolerance(height, bounds=(_CHEETAH_UP, INFINITY), margin=_CHEETAH_UP / 2))


class OneFootCheetah(cheetah.Cheetah):  # type: ignore[misc]
    """
    Run at 6 m/s on one foot, with the torso and the second foot lifted.

    :param lifted: Name of the lifted foot: ``"bfoot"`` (back) or ``"ffoot"`` (front).
    :param random: Seed or random state, as for dm_control's tasks.
    """

    SPEED = 6.0

    def __init__(self, lifted: str, random: Any = None) -> None:
        super().__init__(random)
        self.lifted = lifted

    def get_reward(self, physics: Any) -> float:
        heights = physics.named.data.xpos[[self.lifted, "torso"], "z"]
        up = (3 * _cheetah_up(heights[0]) + 2 * _cheetah_up(heights[1])) / 5
        return up * (5 * at_least(physics.speed(), self.SPEED) + 1) / 6


class JumpingCheetah(cheetah.Cheetah):  # type: ignore[misc]
    """Jump on the spot: lift the torso and both feet, and hardly move along the ground."""

    SPEED = 0.5

    def get_reward(self, physics: Any) -> float:
        torso, front, back = physics.named.data.xpos[["torso", "ffoot", "bfoot"], "z"]
        height = (_cheetah_up((torso + front) / 2) + _cheetah_up((torso + back) / 2)) / 2
        still = tolerance(
            physics.speed(),
            bounds=(-self.SPEED, self.SPEED),
            margin=self.SPEED,
            value_at_margin=0.0,
            sigmoid="linear",
        )
        return float((5 * height + still) / 6)


class BackwardsHopper(hopper.Hopper):  # type: ignore[misc]
    """
    Hop backwards at 1 m/s or more, with the torso high above the foot.

    :param random: Seed or random state, as for dm_control's tasks.
    """

    SPEED = 1.0

    def __init__(self, random: Any = None) -> None:
        super().__init__(hopping=True, random=random)

    def get_reward(self, physics: Any) -> float:
        standing = tolerance(physics.height(), bounds=(hopper._STAND_HEIGHT, 2.0))
        return float(standing * at_least(-physics.speed(), self.SPEED))


class SpinningPendulum(pendulum.SwingUp):  # type: ignore[misc]
    """Spin at 9 rad/s or more, in either direction."""

    SPEED = 9.0

    def get_reward(self, physics: Any) -> float:
        return at_least(abs(float(physics.angular_velocity().item())), self.SPEED)


class SpinningBall(ball_in_cup.BallInCup):  # type: ignore[misc]
    """Swing the ball around the cup, fast and at a distance. Nine of ten episodes start with the ball in the cup."""

    DISTANCE, SPEED = 0.5, 6.0

    def initialize_episode(self, physics: Any) -> None:
        anywhere = self.random.uniform() < 0.1
        while True:
            physics.named.data.qpos["ball_x"] = self.random.uniform(-0.2, 0.2)
            physics.named.data.qpos["ball_z"] = self.random.uniform(0.2, 0.5)
            physics.after_reset()
            if physics.data.ncon == 0 and (anywhere or physics.in_target()):
                break
        base.Task.initialize_episode(self, physics)

    def get_reward(self, physics: Any) -> float:
        if physics.in_target():
            return 0.0
        distance = at_least(float(np.linalg.norm(physics.ball_to_target())), self.DISTANCE)
        speed = float(np.linalg.norm(physics.named.data.qvel[["ball_x", "ball_z"]]))
        return (distance + 2 * at_least(speed, self.SPEED)) / 3


def three_link_reacher() -> reacher.Physics:
    """:return: Physics of dm_control's planar reacher, with an arm of three links instead of two."""
    model = mjcf.from_xml_string(common.read_model("reacher.xml"), assets=common.ASSETS)
    for joint in ("shoulder", "wrist"):
        model.find("actuator", joint).remove()
    model.find("body", "arm").remove()
    parent, position = model.worldbody, [0.0, 0.0, 0.01]
    # Name of the link, name of its joint, range of the joint in degrees, length of the drawn capsule
    links = (("arm0", "shoulder0", None, 0.09), ("arm1", "shoulder1", 80, 0.09), ("hand", "wrist", 80, 0.1))
    for name, joint, bound, length in links:
        body = parent.add("body", name=name, pos=position)
        body.add("geom", name=name, type="capsule", fromto=[0, 0, 0, length, 0, 0], size=[0.01], material="self")
        limits = {} if bound is None else {"limited": True, "range": [-bound, bound]}
        body.add("joint", name=joint, **limits)
        model.actuator.add("motor", name=joint, joint=joint)
        parent, position = body, [0.09, 0.0, 0.0]
    finger = parent.add("body", name="finger", pos=position)
    finger.add("camera", name="hand", pos=[0, 0, 0.2], mode="track")
    finger.add("geom", name="finger", type="sphere", size=[0.01], material="effector")
    return reacher.Physics.from_xml_string(model.to_xml_string(), assets=model.get_assets())


def _physics_of(module: Any) -> Callable[[], Any]:
    """:return: Function that makes the physics of a domain of dm_control."""
    return lambda: module.Physics.from_xml_string(*module.get_model_and_assets())


# By domain and task: function that makes the physics, function that makes the task of a random state, and seconds per
# control step (None: the time step of the physics).
_TASKS: dict[tuple[str, str], tuple[Callable[[], Any], Callable[[Any], Any], float | None]] = {
    ("walker", "walk_backwards"): (_physics_of(walker), lambda random: BackwardsWalker(1.0, random), 0.025),
    ("walker", "run_backwards"): (_physics_of(walker), lambda random: BackwardsWalker(8.0, random), 0.025),
    ("cheetah", "run_backwards"): (_physics_of(cheetah), BackwardsCheetah, None),
    ("cheetah", "run_front"): (_physics_of(cheetah), lambda random: OneFootCheetah("bfoot", random), None),
    ("cheetah", "run_back"): (_physics_of(cheetah), lambda random: OneFootCheetah("ffoot", random), None),
    ("cheetah", "jump"): (_physics_of(cheetah), JumpingCheetah, None),
    ("hopper", "hop_backwards"): (_physics_of(hopper), BackwardsHopper, 0.02),
    ("reacher", "three_easy"): (three_link_reacher, lambda random: reacher.Reacher(0.05, random), None),
    ("reacher", "three_hard"): (three_link_reacher, lambda random: reacher.Reacher(0.015, random), None),
    ("ball_in_cup", "spin"): (_physics_of(ball_in_cup), SpinningBall, 0.02),
    ("pendulum", "spin"): (_physics_of(pendulum), SpinningPendulum, None),
}


def load(domain: str, task: str, random: int | np.random.RandomState | None = None) -> control.Environment:
    """
    Make the environment of a task.

    :param domain: Name of the domain in dm_control, such as ``"ball_in_cup"``.
    :param task: Name of the task, such as ``"spin"``.
    :param random: Seed or random state of the task.
    :return: The environment, without a time limit.
    :raises KeyError: If there is no such task.
    """
    make_physics, make_task, control_timestep = _TASKS[domain, task]
    return control.Environment(make_physics(), make_task(random), control_timestep=control_timestep)
