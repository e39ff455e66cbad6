"""Pretraining of a world model on offline data of many tasks (PWM section 4.1)."""

from sb3_pwm.pretrain.config import PretrainConfig
from sb3_pwm.pretrain.run import RunPaths, pretrain

__all__ = ["PretrainConfig", "RunPaths", "pretrain"]
