"""Policies that act while data is collected: random, scripted or trained."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pwm.collect.behaviors import Behavior
from sb3_pwm.collect.models import find_files, load_model, load_statistics


class Policy(Protocol):
    """What acts in an environment."""

    def __call__(self, observation: Any, starts: bool = True) -> NDArray[Any]:
        """
        Choose an action.

        :param observation: Observation of the environment.
        :param starts: Whether it is the first observation of an episode.
        :return: Action in the bounds of the environment.
        """


def make_policy(behavior: Behavior, task: str, env: gymnasium.Env[Any, Any]) -> Policy:
    """
    Make the policy of a behavior.

    :param behavior: A behavior that acts, so not ``"replay"``.
    :param task: Name of the task.
    :param env: Environment of the task.
    :return: The policy, without the noise of the behavior.
    :raises FileNotFoundError: If the model does not exist.
    :raises ImportError: If the model needs a package that is not installed.
    :raises ValueError: If the task has no scripted expert, the model cannot be loaded, or it was trained on other
        spaces.
    """
    space = env.action_space
    assert isinstance(space, spaces.Box)
    if behavior.kind == "random":
        return lambda observation, starts=True: space.sample()
    if behavior.kind == "expert":
        return _load_expert(task)
    assert env.spec is not None
    files = find_files(behavior.source_of(env.spec.id), env.spec.id)
    statistics = None if files.statistics is None else load_statistics(files.statistics, env)
    return ModelPolicy(load_model(files, env), env.observation_space, statistics)


def _load_expert(task: str) -> Policy:
    """:return: The scripted policy of a task of Meta-World, or the controller of the muscle humanoid's balance."""
    if task == "muscle-humanoid-balance":
        from sb3_pwm.envs.muscle_humanoid_expert import BalanceExpert  # waits for dm_control

        balance = BalanceExpert()
        return lambda observation, starts=True: balance(observation)
    if not task.startswith("mw-"):
        raise ValueError(
            f"{task} has no scripted expert, only muscle-humanoid-balance and the tasks of Meta-World have one: use "
            "policy:PATH."
        )
    from metaworld import policies  # Meta-World is an optional package

    expert: Any = policies.ENV_POLICY_MAP[f"{task.removeprefix('mw-')}-v3"]()  # type: ignore[abstract]
    return lambda observation, starts=True: np.asarray(expert.get_action(observation.astype(np.float64)), np.float32)


class ModelPolicy:
    """
    The deterministic policy of a model.

    :param model: The model.
    :param observation_space: Observation space of the environment. Observations are flattened if the model has learned
        from flat ones.
    :param statistics: Statistics that the observations are normalized with, if any.
    """

    def __init__(
        self, model: BaseAlgorithm, observation_space: spaces.Space[Any], statistics: VecNormalize | None = None
    ):
        self.model = model
        self.observation_space = observation_space
        self.statistics = statistics
        self.takes_flat = isinstance(model.observation_space, spaces.Box) and (
            model.observation_space.shape != observation_space.shape
        )
        self._state: tuple[NDArray[Any], ...] | None = None

    def __call__(self, observation: Any, starts: bool = True) -> NDArray[Any]:
        """:param starts: Whether an episode starts. A recurrent policy then forgets the last one."""
        if self.takes_flat:
            observation = spaces.flatten(self.observation_space, observation)
        if self.statistics is not None:
            observation = self.statistics.normalize_obs(observation)
        state = None if starts else self._state
        action, self._state = self.model.predict(observation, state, np.array([starts]), deterministic=True)
        return np.asarray(action)
