"""Tasks in torch whose dynamics are differentiable."""

from sb3_pwm.envs.differentiable.cartpole import CartpoleSwingup
from sb3_pwm.envs.differentiable.double_pendulum import DoublePendulumSwingup
from sb3_pwm.envs.differentiable.environment import SIMULATORS, SimulatorEnv
from sb3_pwm.envs.differentiable.hopper import HopperHop
from sb3_pwm.envs.differentiable.simulator import Simulator

__all__ = ["SIMULATORS", "CartpoleSwingup", "DoublePendulumSwingup", "HopperHop", "Simulator", "SimulatorEnv"]
