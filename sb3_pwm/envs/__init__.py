"""Task suites under their usual names: ``gymnasium.make("Dog-run")`` works once `sb3_pwm` is imported."""

from sb3_pwm.envs.registration import (
    CUSTOM_TASKS,
    DM_CONTROL_TASKS,
    IMAGE_TASKS,
    META_WORLD_TASKS,
    MUSCLE_TASKS,
    env_id,
    register_envs,
    suite_env_id,
)

__all__ = [
    "CUSTOM_TASKS",
    "DM_CONTROL_TASKS",
    "IMAGE_TASKS",
    "META_WORLD_TASKS",
    "MUSCLE_TASKS",
    "env_id",
    "register_envs",
    "suite_env_id",
]
