"""Policies that act while data is collected: random, scripted or trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pwm.collect.behaviors import Behavior

Policy = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Function of an observation ``(O,)`` that returns an action ``(A,)``"""


def make_policy(behavior: Behavior, task: str, env: gymnasium.Env[Any, Any]) -> Policy:
    """
    Make the policy of a behavior.

    :param behavior: A behavior that acts, so not ``"replay"``.
    :param task: Name of the task.
    :param env: Environment of the task.
    :return: The policy, without the noise of the behavior.
    :raises ValueError: If the task has no scripted expert, or the model was trained on other spaces.
    :raises FileNotFoundError: If the model does not exist.
    """
    space = env.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    if behavior.kind == "random":
        return lambda _: space.sample()
    if behavior.kind == "expert":
        return _load_expert(task)
    return _load_policy(behavior.source_path(task), task, env)


def _load_expert(task: str) -> Policy:
    """:return: The scripted policy of a task of Meta-World."""
    if not task.startswith("mw-"):
        raise ValueError(f"{task} has no scripted expert, only the tasks of Meta-World have one: use policy:PATH.")
    from metaworld import policies  # Meta-World is an optional package

    expert: Any = policies.ENV_POLICY_MAP[f"{task.removeprefix('mw-')}-v3"]()  # type: ignore[abstract]
    return lambda observation: np.asarray(expert.get_action(observation.astype(np.float64)), np.float32)


def _load_policy(path: Path, task: str, env: gymnasium.Env[Any, Any]) -> Policy:
    """:return: The deterministic policy of a run of rl-zoo3, with the normalization of its observations."""
    # rl_zoo3 takes seconds to import, and no other behavior needs it. sb3_pwm.zoo adds PWM to its algorithms.
    import rl_zoo3.utils

    import sb3_pwm.zoo  # noqa: F401

    # rl-zoo3 writes <algo>/<env>_<number>/<env>.zip, and <env>/vecnormalize.pkl beside it.
    folder = path.parent if path.suffix == ".zip" else path
    env_name = folder.name.rpartition("_")[0]
    file = path if path.suffix == ".zip" else folder / f"{env_name}.zip"
    algorithm = folder.resolve().parent.name
    if not file.is_file():
        raise FileNotFoundError(f"There is no model {file}: give the folder of a run, such as logs/pwm/Walker-walk_1.")
    if algorithm not in rl_zoo3.utils.ALGOS:
        raise ValueError(
            f"{folder} must be in a folder that is named after an algorithm of rl-zoo3, but is in {algorithm!r}."
        )
    model = rl_zoo3.utils.ALGOS[algorithm].load(file, device="cpu")
    if (
        model.observation_space.shape != env.observation_space.shape
        or model.action_space.shape != env.action_space.shape
    ):
        raise ValueError(
            f"{file} was trained on observations {model.observation_space.shape} and actions "
            f"{model.action_space.shape}; {task} has {env.observation_space.shape} and {env.action_space.shape}."
        )
    statistics = folder / env_name / "vecnormalize.pkl"
    normalize: Callable[[Any], Any] = lambda observation: observation  # noqa: E731
    if statistics.is_file():
        normalize = VecNormalize.load(str(statistics), DummyVecEnv([lambda: env])).normalize_obs
    return lambda observation: model.predict(normalize(observation), deterministic=True)[0]
