"""Environments under the usual names of their tasks: ``import sb3_pwm`` makes ``gymnasium.make("Dog-run")`` work."""

from sb3_pwm.envs.registration import register_envs

__all__ = ["register_envs"]
