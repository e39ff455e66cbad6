"""Comparison of hyperparameters. Curves of version 0.1.0 have older names of some of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from sb3_pwm.world_model import WorldModelConfig

RENAMED = {
    "world_model_steps": "world_model_updates",
    "critic_epochs": "n_critic_epochs",
    "critic_minibatches": "n_critic_minibatches",
    "behaviour_coef": "bc_coef",
    "behaviour_temperature": "bc_temperature",
    "checkpoint_rollout": "gradient_checkpointing",
    "overlap": "overlap_updates",
}
# Each run sets its own number of timesteps. Compilation does not change what is learned.
IGNORED = ("n_timesteps", "compile")


def same_meaning(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """
    :param one: Hyperparameters in the zoo's notation.
    :param other: Other hyperparameters.
    :return: Whether both describe the same model and the same training.
    """
    return meaning(one) == meaning(other)


def meaning(hyperparams: dict[str, Any]) -> dict[str, Any]:
    """
    Translate hyperparameters to one notation.

    :param hyperparams: Hyperparameters in the zoo's notation, of this version or of 0.1.0.
    :return: The hyperparameters under their present names, with all fields of the world model's configuration.
    """
    values = {RENAMED.get(name, name): value for name, value in hyperparams.items() if name not in IGNORED}
    kwargs = values.pop("policy_kwargs", {})
    # rl-zoo3 evaluates this text too.
    kwargs = dict(eval(kwargs, {"nn": nn, "dict": dict}) if isinstance(kwargs, str) else kwargs)
    fields = values.pop("world_model", {})
    fields = {"size": fields} if isinstance(fields, str) else dict(fields)
    # Version 0.1.0 had the world model's fields in policy_kwargs.
    for old, new in (("world_model_size", "size"), ("latent_dim", "latent_dim")):
        if old in kwargs:
            fields[new] = kwargs.pop(old)
    fields |= kwargs.pop("world_model_kwargs", {})
    shape = dataclasses.asdict(WorldModelConfig.resolve(fields, observation_dim=1, action_dim=1))
    return {**values, "policy_kwargs": {name: repr(value) for name, value in kwargs.items()}, "world_model": shape}
