"""
Every task of the package as plain data: names, environment ids, and the suites MT30 and MT80 with their dimensions.

The names are written down here rather than asked of the simulators. Importing dm_control takes most of a second and
opens a graphics library, which a program that merely imports the package should not pay for.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import functools
from importlib import resources

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
"""Every task of dm_control's suite, by domain, in dm_control's own spelling."""

CUSTOM_TASKS: dict[str, tuple[str, ...]] = {
    "walker": ("walk_backwards", "run_backwards"),
    "cheetah": ("run_backwards", "run_front", "run_back", "jump"),
    "hopper": ("hop_backwards",),
    "reacher": ("three_easy", "three_hard"),
    "ball_in_cup": ("spin",),
    "pendulum": ("spin",),
}
"""The tasks that MT30 adds to dm_control's domains, see `sb3_pwm.envs.custom`."""

MUSCLE_TASKS: dict[str, tuple[str, ...]] = {"muscle_humanoid": ("stand", "walk", "run")}
"""The tasks of the humanoid with 152 muscles, see `sb3_pwm.envs.muscle_humanoid`."""

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
"""Meta-World's 50 tasks, in the order in which the TD-MPC2 release counts them."""

IMAGE_TASKS: dict[str, bool] = {"Pendulum-pixels": False, "Pendulum-dict": True}
"""Pendulum-v1 seen as pictures, see `sb3_pwm.envs.pendulum_images`; True: with the velocity, as a ``Dict``."""

# The two domains that TD-MPC2, its data sets and its published curves spell differently from dm_control, and our own.
_USUAL_DOMAIN_NAMES = {"ball_in_cup": "cup", "point_mass": "pointmass", "muscle_humanoid": "muscle-humanoid"}


def env_id(task: str) -> str:
    """Returns the environment id of a task.

    :param task: The task as the TD-MPC2 and PWM releases spell it, e.g. ``"cup-catch"``.
    :return: The id, e.g. ``"Cup-catch"``.
    """
    return f"{task[0].upper()}{task[1:]}"


def suite_env_id(domain: str, task: str) -> str:
    """Returns the environment id of a task of dm_control's suite, or of one that is added to it.

    :param domain: dm_control's name of the domain, e.g. ``"ball_in_cup"``.
    :param task: dm_control's name of the task, e.g. ``"turn_easy"``.
    :return: The id, e.g. ``"Cup-catch"`` or ``"Finger-turn-easy"``.
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

# Sizes of observation and action, by the beginning of the task's name; the longest that fits counts.
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
    A set of tasks that one world model is trained on.

    :param name: Its name, such as ``"mt30"``.
    :param tasks: The tasks as the TD-MPC2 and PWM releases spell and order them, so that their task indices fit.
    """

    name: str
    tasks: tuple[str, ...]

    @property
    def env_ids(self) -> tuple[str, ...]:
        """The tasks' environment ids, in the same order."""
        return tuple(env_id(task) for task in self.tasks)

    def canonical(self, task: str) -> str:
        """
        :param task: A task's name or environment id.
        :return: Its name, as the releases spell it.
        :raises ValueError: If the suite has no such task; the message names the nearest ones.
        """
        name = task.lower()
        if name not in self.tasks:
            nearest = difflib.get_close_matches(name, self.tasks, n=3, cutoff=0.0)
            raise ValueError(f"{self.name} has no task {task!r}; nearest: {', '.join(nearest)}.")
        return name

    def index(self, task: str) -> int:
        """
        :param task: A task's name or environment id.
        :return: Its index in the suite.
        :raises ValueError: If the suite has no such task; the message names the nearest ones.
        """
        return self.tasks.index(self.canonical(task))

    @property
    def observation_dim(self) -> int:
        """Size of the largest observation, to which the others are padded."""
        return max(dimensions(task)[0] for task in self.tasks)

    @property
    def action_dim(self) -> int:
        """Size of the largest action, to which the others are padded."""
        return max(dimensions(task)[1] for task in self.tasks)


MT30 = Suite("mt30", _DM_CONTROL + _CUSTOM)
MT80 = Suite("mt80", _DM_CONTROL + _CUSTOM + _META_WORLD)
SUITES = {suite.name: suite for suite in (MT30, MT80)}


def get_suite(name: str) -> Suite:
    """
    :param name: ``"mt30"`` or ``"mt80"``, in any case.
    :return: The suite.
    :raises ValueError: If there is no such suite.
    """
    if name.lower() not in SUITES:
        raise ValueError(f"There is no suite {name!r}; the suites are {', '.join(SUITES)}.")
    return SUITES[name.lower()]


@functools.cache
def _all_tasks() -> tuple[str, ...]:
    tables = (*DM_CONTROL_TASKS.items(), *CUSTOM_TASKS.items(), *MUSCLE_TASKS.items())
    ids = [suite_env_id(domain, task) for domain, tasks in tables for task in tasks]
    return (*(name[0].lower() + name[1:] for name in ids), *_META_WORLD)


def task_name(task: str) -> str:
    """
    :param task: Any task of the package with flat observations, of a suite or not, or its environment id, in any case.
    :return: Its name: the environment id with a small first letter, as the releases spell theirs.
    :raises ValueError: If there is no such task; the message names the nearest ones.
    """
    by_lower_case = {name.lower(): name for name in _all_tasks()}
    if task.lower() not in by_lower_case:
        nearest = difflib.get_close_matches(task.lower(), by_lower_case, n=3, cutoff=0.0)
        raise ValueError(f"There is no task {task!r}; nearest: {', '.join(nearest)}.")
    return by_lower_case[task.lower()]


def dimensions(task: str) -> tuple[int, int]:
    """
    :param task: A task of MT80.
    :return: Sizes of its observation and its action.
    :raises ValueError: If MT80 has no such task; the message names the nearest ones.
    """
    name = MT80.canonical(task)
    return _DIMENSIONS[max((prefix for prefix in _DIMENSIONS if name.startswith(prefix)), key=len)]


def normalized_score(task: str, mean_return: float, success_rate: float | None = None) -> float:
    """
    The score in [0, 1] that multi-task results are averages of (TD-MPC2, section 4).

    :param task: A task of MT80.
    :param mean_return: Mean return of its episodes.
    :param success_rate: Share of episodes that ended in success; needed for Meta-World.
    :return: The return divided by 1000 on DMControl, the success rate on Meta-World.
    :raises ValueError: If MT80 has no such task, or a Meta-World task comes without its success rate.
    """
    if MT80.canonical(task).startswith("mw-"):
        if success_rate is None:
            raise ValueError(f"The score of {task} is its success rate: give success_rate.")
        return float(success_rate)
    return mean_return / 1000.0


@functools.cache
def published_scores(suite: str) -> dict[str, dict[str, float]]:
    """
    :param suite: ``"mt30"`` or ``"mt80"``.
    :return: By task, the normalized scores of ``"pwm_48m"`` (arXiv 2407.02466, one world model of 48M for the suite)
        and ``"tdmpc2"`` (its authors' multi-task results).
    :raises ValueError: If there is no such suite.
    """
    name = get_suite(suite).name
    text = resources.files("sb3_pwm").joinpath("published_scores.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["suite"] == name]
    return {row["task"]: {"pwm_48m": float(row["pwm_48m"]), "tdmpc2": float(row["tdmpc2"])} for row in rows}
