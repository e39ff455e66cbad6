"""Vectorized environments."""

from collections.abc import Callable

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class OverlappedVecEnv(VecEnvWrapper):
    """
    Does something else between sending the actions and waiting for what they led to.

    :param venv: Environments that step in processes of their own.
    :param work: Called once in every step.
    """

    def __init__(self, venv: VecEnv, work: Callable[[], None]):
        super().__init__(venv)
        self.work = work

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.step_async(actions)
        try:
            self.work()
        except BaseException:
            self.venv.step_wait()  # the environments must not be left with an answer that nobody has taken
            raise

    def step_wait(self) -> VecEnvStepReturn:
        return self.venv.step_wait()
