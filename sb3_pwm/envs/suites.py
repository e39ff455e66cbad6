"""The suites MT30 and MT80 as data: tasks in the releases' order, their dimensions, how scores are normalised, and the
scores that were published."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import functools
from importlib import resources

from sb3_pwm.envs.registration import (
    CUSTOM_TASKS,
    DM_CONTROL_TASKS,
    META_WORLD_TASKS,
    MUSCLE_TASKS,
    env_id,
    suite_env_id,
)

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


def normalised_score(task: str, mean_return: float, success_rate: float | None = None) -> float:
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
    :return: By task, the normalised scores of ``"pwm_48m"`` (arXiv 2407.02466, one world model of 48M for the suite)
        and ``"tdmpc2"`` (its authors' multi-task results).
    :raises ValueError: If there is no such suite.
    """
    name = get_suite(suite).name
    text = resources.files("sb3_pwm.envs").joinpath("published_scores.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["suite"] == name]
    return {row["task"]: {"pwm_48m": float(row["pwm_48m"]), "tdmpc2": float(row["tdmpc2"])} for row in rows}
