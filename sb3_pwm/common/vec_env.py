"""A wrapper of vectorized environments."""

from collections.abc import Callable

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class OverlappedVecEnv(VecEnvWrapper):
    """
    Call a function while the environments take their step.

    :param venv: Environments that step in other processes.
    :param work: Function without arguments. It is called in every step, between sending the actions and waiting for
        the results.
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
            self.venv.step_wait()  # otherwise the next step would read the results of this one
            raise

    def step_wait(self) -> VecEnvStepReturn:
        return self.venv.step_wait()
