"""The algorithm and its policies."""

from sb3_pwm.pwm.checkpoints import Checkpoint, latest_checkpoint
from sb3_pwm.pwm.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, PWMPolicy
from sb3_pwm.pwm.pwm import PWM

__all__ = ["PWM", "Checkpoint", "CnnPolicy", "MlpPolicy", "MultiInputPolicy", "PWMPolicy", "latest_checkpoint"]
