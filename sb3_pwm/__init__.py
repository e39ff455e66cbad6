"""PWM (Policy Learning with Multi-Task World Models, arXiv 2407.02466) for Stable-Baselines3."""

from sb3_pwm.common.checkpoints import latest_checkpoint
from sb3_pwm.common.version import __version__
from sb3_pwm.data import OfflineDataset, SequenceBatch, SequenceReplayBuffer
from sb3_pwm.envs import register_envs
from sb3_pwm.pwm import PWM, CnnPolicy, MlpPolicy, MultiInputPolicy, Planner, PWMPolicy
from sb3_pwm.world_model import WorldModel, WorldModelConfig

register_envs()

__all__ = [
    "PWM",
    "CnnPolicy",
    "MlpPolicy",
    "MultiInputPolicy",
    "OfflineDataset",
    "PWMPolicy",
    "Planner",
    "SequenceBatch",
    "SequenceReplayBuffer",
    "WorldModel",
    "WorldModelConfig",
    "__version__",
    "latest_checkpoint",
]
