"""The algorithm and its policies."""

from sb3_pwm.pwm.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, PWMPolicy
from sb3_pwm.pwm.pwm import PWM

__all__ = ["PWM", "CnnPolicy", "MlpPolicy", "MultiInputPolicy", "PWMPolicy"]
