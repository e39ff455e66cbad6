"""Task suites under their usual names: ``gymnasium.make("Dog-run")`` works once `sb3_pwm` is imported."""

from sb3_pwm.envs.registration import DM_CONTROL_TASKS, register_envs, suite_env_id

__all__ = ["DM_CONTROL_TASKS", "register_envs", "suite_env_id"]
