"""The world model and its loss. Nothing in here knows of policies."""

from sb3_pwm.world_model.config import WorldModelConfig
from sb3_pwm.world_model.losses import WorldModelLoss, world_model_loss
from sb3_pwm.world_model.model import WorldModel

__all__ = ["WorldModel", "WorldModelConfig", "WorldModelLoss", "world_model_loss"]
