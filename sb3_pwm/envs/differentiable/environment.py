"""Simulators as Gymnasium environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_pwm.common.checks import check_name
from sb3_pwm.envs.arguments import check_action
from sb3_pwm.envs.differentiable.cartpole import CartpoleSwingup
from sb3_pwm.envs.differentiable.double_pendulum import DoublePendulumSwingup
from sb3_pwm.envs.differentiable.hopper import HopperHop
from sb3_pwm.envs.differentiable.simulator import Simulator

SIMULATORS: dict[str, type[Simulator]] = {
    "torch-cartpole-swingup": CartpoleSwingup,
    "torch-double-pendulum-swingup": DoublePendulumSwingup,
    "torch-hopper-hop": HopperHop,
}
"""Simulators by the name of the task"""


class SimulatorEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """
    One state of a simulator as a Gymnasium environment.

    :param task: Key of :data:`SIMULATORS`.
    :raises ValueError: If there is no such task. The message lists the nearest names.
    """

    def __init__(self, task: str) -> None:
        check_name("task", task, SIMULATORS)
        self.simulator = SIMULATORS[task]()
        self.observation_space = spaces.Box(-np.inf, np.inf, (self.simulator.observation_dim,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (self.simulator.action_dim,), np.float32)
        self.state: th.Tensor
        """State ``(S,)`` of the simulator"""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """
        Start a new episode.

        :param seed: Seed of the initial state. None: the random state is kept.
        :param options: Ignored.
        :return: First observation ``(O,)``, and an empty dictionary.
        """
        super().reset(seed=seed)
        generator = th.Generator().manual_seed(int(self.np_random.integers(2**63)))
        self.state = self.simulator.initial_state(1, generator)[0]
        return self._observe(), {}

    @th.no_grad()
    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """
        Apply an action for one step of the simulator.

        :param action: Action ``(A,)``, which is clipped to [-1, 1].
        :return: Observation ``(O,)``, reward, terminated, False, and an empty dictionary.
        :raises ValueError: If the action does not have the shape of the action space.
        """
        action = np.clip(check_action(action, self.action_space.shape or ()), -1.0, 1.0)
        actions = th.as_tensor(action, dtype=self.state.dtype)
        reward = float(self.simulator.reward(self.state, actions))
        self.state = self.simulator.next(self.state, actions)
        terminated = not bool(self.simulator.continuation(self.state))
        return self._observe(), reward, terminated, False, {}

    def _observe(self) -> NDArray[np.float32]:
        """:return: Observation of the state."""
        observation: NDArray[np.float32] = self.simulator.observation(self.state).numpy()
        return observation
