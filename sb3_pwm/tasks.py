"""
All tasks of the package as plain data: names, environment ids, and the suites MT30 and MT80 with their dimensions.

The names are listed here, and not read from the simulators, because importing dm_control takes most of a second and
opens a graphics library.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import re
from importlib import resources

from sb3_pwm.common.checks import check_name

DM_CONTROL_TASKS: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
"""Tasks of dm_control's suite by domain, in the spelling of dm_control"""

CUSTOM_TASKS: dict[str, tuple[str, ...]] = {
    "walker": ("walk_backwards", "run_backwards"),
    "cheetah": ("run_backwards", "run_front", "run_back", "jump"),
    "hopper": ("hop_backwards",),
    "reacher": ("three_easy", "three_hard"),
    "ball_in_cup": ("spin",),
    "pendulum": ("spin",),
}
"""Tasks that MT30 adds to dm_control's domains, see :mod:`sb3_pwm.envs.custom`"""

MUSCLE_TASKS: dict[str, tuple[str, ...]] = {"muscle_humanoid": ("stand", "walk", "run", "balance")}
"""Tasks of the humanoid with 152 muscles, see :mod:`sb3_pwm.envs.muscle_humanoid`"""

META_WORLD_TASKS: tuple[str, ...] = (
    *("assembly", "basketball", "button-press-topdown", "button-press-topdown-wall", "button-press"),
    *("button-press-wall", "coffee-button", "coffee-pull", "coffee-push", "dial-turn"),
    *("disassemble", "door-open", "door-close", "drawer-close", "drawer-open"),
    *("faucet-open", "faucet-close", "hammer", "handle-press-side", "handle-press"),
    *("handle-pull-side", "handle-pull", "lever-pull", "peg-insert-side", "peg-unplug-side"),
    *("pick-out-of-hole", "pick-place", "pick-place-wall", "plate-slide", "plate-slide-side"),
    *("plate-slide-back", "plate-slide-back-side", "push-back", "push", "push-wall"),
    *("reach", "reach-wall", "shelf-place", "soccer", "stick-push"),
    *("stick-pull", "sweep-into", "sweep", "window-open", "window-close"),
    *("bin-picking", "box-close", "door-lock", "door-unlock", "hand-insert"),
)
"""The 50 tasks of Meta-World, in the order of TD-MPC2"""

MYOSUITE_TASKS: dict[str, str] = {
    "reach": "myoHandReachFixed-v0",
    "reach-hard": "myoHandReachRandom-v0",
    "pose": "myoHandPoseFixed-v0",
    "pose-hard": "myoHandPoseRandom-v0",
    "obj-hold": "myoHandObjHoldFixed-v0",
    "obj-hold-hard": "myoHandObjHoldRandom-v0",
    "key-turn": "myoHandKeyTurnFixed-v0",
    "key-turn-hard": "myoHandKeyTurnRandom-v0",
    "pen-twirl": "myoHandPenTwirlFixed-v0",
    "pen-twirl-hard": "myoHandPenTwirlRandom-v0",
}
"""The 10 tasks of MyoSuite that TD-MPC2 was measured on, in the order of TD-MPC2, and their ids in MyoSuite"""

IMAGE_TASKS: dict[str, bool] = {"Pendulum-pixels": False, "Pendulum-dict": True}
"""Ids of Pendulum-v1 with images, and whether the observation is a ``Dict`` with the velocity, see
:mod:`sb3_pwm.envs.pendulum_images`"""

SIMULATED_TASKS: tuple[str, ...] = ("torch-cartpole-swingup", "torch-double-pendulum-swingup", "torch-hopper-hop")
"""Tasks whose dynamics are differentiable, see :mod:`sb3_pwm.envs.differentiable`"""

# Domains whose names in environment ids are not those of dm_control. The first two are TD-MPC2's names.
_USUAL_DOMAIN_NAMES = {"ball_in_cup": "cup", "point_mass": "pointmass", "muscle_humanoid": "muscle-humanoid"}


def env_id(task: str) -> str:
    """
    Convert the name of a task to its environment id.

    :param task: Name of the task in the spelling of TD-MPC2 and PWM, such as ``"cup-catch"``.
    :return: Environment id, such as ``"Cup-catch"``.
    """
    return f"{task[0].upper()}{task[1:]}"


def folder_name(task: str) -> str:
    """
    Convert the name of a task to the name of its folder.

    :param task: Name of the task, such as ``"walker-walk"`` or ``"phys2d/pendulum-v0"``.
    :return: The name, with ``-`` in place of what the name of a folder or of a Minari data set must not have.
    """
    return re.sub(r"[^-\w]", "-", task)


def suite_env_id(domain: str, task: str) -> str:
    """
    Convert domain and task of dm_control, of MT30 or of the muscle humanoid to the environment id.

    :param domain: Name of the domain in dm_control, such as ``"ball_in_cup"``.
    :param task: Name of the task in dm_control, such as ``"turn_easy"``.
    :return: Environment id, such as ``"Cup-catch"`` or ``"Finger-turn-easy"``.
    """
    name = _USUAL_DOMAIN_NAMES.get(domain, domain)
    return env_id(f"{name}-{task.replace('_', '-')}")


_DM_CONTROL = (
    *("walker-stand", "walker-walk", "walker-run", "cheetah-run", "reacher-easy", "reacher-hard", "acrobot-swingup"),
    *("pendulum-swingup", "cartpole-balance", "cartpole-balance-sparse", "cartpole-swingup"),
    *("cartpole-swingup-sparse", "cup-catch", "finger-spin", "finger-turn-easy", "finger-turn-hard", "fish-swim"),
    *("hopper-stand", "hopper-hop"),
)
_CUSTOM = tuple(
    suite_env_id(domain, task).lower() for domain, domain_tasks in CUSTOM_TASKS.items() for task in domain_tasks
)
_META_WORLD = tuple(f"mw-{task}" for task in META_WORLD_TASKS)

# Sizes of observation and action by prefix of the task's name. The longest prefix of a name counts.
_DIMENSIONS = {
    "acrobot": (6, 1),
    "cartpole": (5, 1),
    "cheetah": (17, 6),
    "cup": (8, 2),
    "finger-spin": (9, 2),
    "finger-turn": (12, 2),
    "fish": (24, 5),
    "hopper": (15, 4),
    "mw": (39, 4),
    "pendulum": (3, 1),
    "reacher": (6, 2),
    "reacher-three": (8, 3),
    "walker": (24, 6),
}


@dataclasses.dataclass(frozen=True)
class Suite:
    """
    A set of tasks for one world model.

    :param name: Name of the suite, such as ``"mt30"``.
    :param tasks: Names of the tasks, in the spelling and the order of TD-MPC2 and PWM. Task indices are the same.
    """

    name: str
    tasks: tuple[str, ...]

    @property
    def env_ids(self) -> tuple[str, ...]:
        """Environment ids of the tasks, in the order of the tasks."""
        return tuple(env_id(task) for task in self.tasks)

    def canonical(self, task: str) -> str:
        """
        Convert a name or an environment id to the name in the suite.

        :param task: Name or environment id of a task.
        :return: Name of the task in the spelling of TD-MPC2 and PWM.
        :raises ValueError: If the suite has no such task. The message lists the nearest names.
        """
        check_name("task", task, self.tasks, self.name, ignore_case=True)
        return task.lower()

    def index(self, task: str) -> int:
        """
        Look up the index of a task.

        :param task: Name or environment id of a task.
        :return: Index of the task in the suite.
        :raises ValueError: If the suite has no such task. The message lists the nearest names.
        """
        return self.tasks.index(self.canonical(task))

    @property
    def observation_dim(self) -> int:
        """Size of the largest observation. Smaller observations are padded to it."""
        return max(dimensions(task)[0] for task in self.tasks)

    @property
    def action_dim(self) -> int:
        """Size of the largest action. Smaller actions are padded to it."""
        return max(dimensions(task)[1] for task in self.tasks)


MT30 = Suite("mt30", _DM_CONTROL + _CUSTOM)
"""The 30 tasks of MT30: 19 of dm_control, and 11 that TD-MPC2 adds"""
MT80 = Suite("mt80", _DM_CONTROL + _CUSTOM + _META_WORLD)
"""The 80 tasks of MT80: MT30, and the 50 tasks of Meta-World"""
SUITES = {suite.name: suite for suite in (MT30, MT80)}
"""All suites, by name"""


def get_suite(name: str) -> Suite:
    """
    Look up a suite.

    :param name: ``"mt30"`` or ``"mt80"``, in upper or lower case.
    :return: The suite.
    :raises ValueError: If there is no such suite.
    """
    check_name("suite", name, SUITES, ignore_case=True)
    return SUITES[name.lower()]


@functools.cache
def all_tasks() -> tuple[str, ...]:
    """:return: Names of all tasks of this package with flat observations."""
    tables = (*DM_CONTROL_TASKS.items(), *CUSTOM_TASKS.items(), *MUSCLE_TASKS.items())
    ids = [suite_env_id(domain, task) for domain, tasks in tables for task in tasks]
    names = (name[0].lower() + name[1:] for name in ids)
    return (*names, *_META_WORLD, *(f"myo-{task}" for task in MYOSUITE_TASKS), *SIMULATED_TASKS)


def task_name(task: str) -> str:
    """
    Convert a name or an environment id to the name of the task.

    :param task: Name or environment id of a task with flat observations, in upper or lower case. The task need not be
        in a suite.
    :return: Name of the task, which is the environment id with a lower-case first letter.
    :raises ValueError: If there is no such task. The message lists the nearest names.
    """
    check_name("task", task, all_tasks(), ignore_case=True)
    return next(name for name in all_tasks() if name.lower() == task.lower())


def dimensions(task: str) -> tuple[int, int]:
    """
    Look up the dimensions of a task.

    :param task: Name or environment id of a task of MT80.
    :return: Size of the observation, and size of the action.
    :raises ValueError: If MT80 has no such task. The message lists the nearest names.
    """
    name = MT80.canonical(task)
    return _DIMENSIONS[max((prefix for prefix in _DIMENSIONS if name.startswith(prefix)), key=len)]


def normalized_score(task: str, mean_return: float, success_rate: float | None = None) -> float:
    """
    Compute the normalized score of a task, whose mean over the tasks is a multi-task result (TD-MPC2, section 4).

    :param task: Name or environment id of a task of MT80.
    :param mean_return: Mean return of the episodes.
    :param success_rate: Share of the episodes that ended in success. Required for tasks of Meta-World.
    :return: Score from 0 to 1: the mean return divided by 1000 for DMControl, the success rate for Meta-World.
    :raises ValueError: If MT80 has no such task, or the success rate of a Meta-World task is missing.
    """
    if MT80.canonical(task).startswith("mw-"):
        if success_rate is None:
            raise ValueError(f"The score of {task} is its success rate: give success_rate.")
        return float(success_rate)
    return mean_return / 1000.0


@functools.cache
def published_scores(suite: str) -> dict[str, dict[str, float]]:
    """
    Read the published multi-task results of a suite.

    :param suite: ``"mt30"`` or ``"mt80"``.
    :return: Normalized scores by task and by method: ``"pwm_48m"`` (arXiv 2407.02466, one world model of 48M parameters
        for the suite) and ``"tdmpc2"`` (multi-task results of its authors).
    :raises ValueError: If there is no such suite.
    """
    name = get_suite(suite).name
    text = resources.files("sb3_pwm").joinpath("published_scores.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["suite"] == name]
    return {row["task"]: {"pwm_48m": float(row["pwm_48m"]), "tdmpc2": float(row["tdmpc2"])} for row in rows}
