"""Task suites under their usual names: ``gymnasium.make("Dog-run")`` works once `sb3_pwm` is imported."""

from sb3_pwm.envs.registration import register_envs

__all__ = ["register_envs"]
