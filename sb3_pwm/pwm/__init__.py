"""The algorithm, its policies, and planning in its world model."""

from sb3_pwm.pwm.planner import Planner
from sb3_pwm.pwm.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, PWMPolicy
from sb3_pwm.pwm.pwm import PWM

__all__ = ["PWM", "CnnPolicy", "MlpPolicy", "MultiInputPolicy", "PWMPolicy", "Planner"]
