"""Tasks in torch whose dynamics are differentiable."""

from sb3_pwm.envs.differentiable.environment import SIMULATORS, SimulatorEnv
from sb3_pwm.envs.differentiable.simulator import Simulator

__all__ = ["SIMULATORS", "Simulator", "SimulatorEnv"]
