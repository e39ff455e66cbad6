"""Environments of tasks: the tasks of this package, and every environment that is registered in Gymnasium."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation

from sb3_pwm.common.checks import check_name
from sb3_pwm.data.cleaning import check_continuous
from sb3_pwm.data.flattening import check_can_be_flattened
from sb3_pwm.tasks import all_tasks, env_id, task_name


class Task(NamedTuple):
    """A task and its environment."""

    name: str
    """Name of the task in data sets and world models, such as ``"walker-walk"`` or ``"hopper-v5"``"""
    env_id: str
    """What ``gymnasium.make`` takes, such as ``"Walker-walk"``, ``"Hopper-v5"`` or ``"my_package:MyEnv-v0"``"""


def find_task(name: str) -> Task:
    """
    Find a task.

    :param name: Name or environment id of a task of this package, or any id that is registered in Gymnasium, in upper
        or lower case. ``"my_package:MyEnv-v0"`` imports the package first, as ``gymnasium.make`` does.
    :return: The task. The name of a task outside this package is the id in lower case, without the package.
    :raises ImportError: If the package cannot be imported.
    :raises ValueError: If there is no such task. The message lists the nearest names.
    """
    package, _, short = name.rpartition(":")
    if package:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f"{package!r} of the task {name!r} cannot be imported: {error}.") from error
    ours = all_tasks()
    if short.lower() in {task.lower() for task in ours}:
        task = task_name(short)
        return Task(task, env_id(task))
    our_ids = {env_id(task) for task in ours}
    registered = {known.lower(): known for known in gymnasium.registry if known not in our_ids}
    try:
        check_name("task", short, (*ours, *registered.values()), ignore_case=True)
    except ValueError as error:
        remedy = "" if package else " If a package registers it, give package:Id, such as my_package:MyEnv-v0."
        raise ValueError(f"{error}{remedy}") from None
    found = short if short in gymnasium.registry else registered[short.lower()]
    return Task(found.lower(), f"{package}:{found}" if package else found)


def stored_name(task: str, known: Iterable[str]) -> str:
    """
    Find the name that data or a world model has for a task.

    :param task: Name of the task.
    :param known: Names of their tasks. ``OfflineDataset.from_replay_buffer(buffer, "Hopper-v5")`` has the name as its
        user wrote it.
    :return: The known name that differs in upper and lower case at most; ``task`` if there is none.
    """
    return next((name for name in known if name.lower() == task.lower()), task)


def check_tasks(tasks: Iterable[Task]) -> None:
    """
    Check that policies of this package can act in the environments of tasks. The tasks of this package are not checked.

    :param tasks: The tasks.
    :raises ValueError: See :func:`make_env`.
    """
    for task in tasks:
        if task.name not in all_tasks():
            make_env(task.env_id).close()


def make_env(env_id: str) -> gymnasium.Env[Any, Any]:
    """
    Make an environment, and check its spaces.

    :param env_id: What ``gymnasium.make`` takes.
    :return: The environment.
    :raises ValueError: If the environment cannot be made, the action space is not a ``Box`` with finite bounds, or the
        observations cannot be made rows of numbers. Images cannot.
    """
    try:
        env = gymnasium.make(env_id)
    except gymnasium.error.Error as error:  # a package is missing, or the version is too old
        raise ValueError(f"{env_id} cannot be made: {error}") from error
    space = env.action_space
    if isinstance(space, spaces.Box) and not space.is_bounded():
        raise ValueError(f"{env_id} has actions without bounds, {space}: register it with finite bounds.")
    check_continuous(space, env_id)
    check_can_be_flattened(env.observation_space, env_id)
    return env


def flat_env(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """
    Make the observations of an environment rows of numbers, as they are in data sets.

    :param env: An environment from :func:`make_env`.
    :return: The environment, in a ``FlattenObservation`` if its observations are not rows already.
    """
    space = env.observation_space
    return env if isinstance(space, spaces.Box) and len(space.shape) == 1 else FlattenObservation(env)


def flat_space(space: spaces.Space[Any]) -> spaces.Box:
    """
    Get the space of flat observations in float32.

    :param space: An observation space.
    :return: The space of its observations in data sets.
    """
    flat = spaces.flatten_space(space)
    assert isinstance(flat, spaces.Box)
    with np.errstate(over="ignore"):  # the largest numbers of float64 are infinite in float32
        return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
