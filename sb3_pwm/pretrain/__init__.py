"""Pretraining of a world model on offline data of one task or many (PWM section 4.1)."""

from sb3_pwm.pretrain.checkpoint import RunPaths
from sb3_pwm.pretrain.config import PretrainConfig
from sb3_pwm.pretrain.run import pretrain

__all__ = ["PretrainConfig", "RunPaths", "pretrain"]
