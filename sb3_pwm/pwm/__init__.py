"""The algorithm and its policies."""

from sb3_pwm.pwm.policies import MlpPolicy, PWMPolicy
from sb3_pwm.pwm.pwm import PWM

__all__ = ["PWM", "MlpPolicy", "PWMPolicy"]
