"""The shape of a world model: everything that fixes the sizes of its networks."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "mish": nn.Mish,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}
"""Names of hidden activations."""
REWARD_HEADS = ("two_hot", "scalar")

# Sizes of the TD-MPC2 release (arXiv 2310.16828, table 8), and below them one for learning a single task on a CPU.
PRESETS: dict[str, dict[str, int]] = {
    "200K": dict(encoder_dim=192, encoder_layers=2, mlp_dim=192, latent_dim=64),
    "1M": dict(encoder_dim=256, encoder_layers=2, mlp_dim=384, latent_dim=128),
    "5M": dict(encoder_dim=256, encoder_layers=2, mlp_dim=512, latent_dim=512),
    "19M": dict(encoder_dim=1024, encoder_layers=3, mlp_dim=1024, latent_dim=768),
    "48M": dict(encoder_dim=1792, encoder_layers=4, mlp_dim=1792, latent_dim=768),
    "317M": dict(encoder_dim=4096, encoder_layers=5, mlp_dim=4096, latent_dim=1376),
}


DEFAULT_SIZE = "200K"
"""The preset for learning a single task online on a CPU."""


@dataclasses.dataclass(frozen=True)
class WorldModelConfig:
    """
    Everything that fixes a world model's shape.

    :param observation_dim: Size of the (flat) observation.
    :param action_dim: Size of the (flat) action.
    :param latent_dim: Size of the latent, Z; a multiple of ``simnorm_dim``.
    :param encoder_dim: Width of the encoder's hidden layers.
    :param encoder_layers: Number of layers of the encoder, its output layer included; at least 2.
    :param mlp_dim: Width of the two hidden layers of dynamics, reward and termination.
    :param simnorm_dim: Group size of :class:`~sb3_pwm.common.layers.SimNorm`.
    :param reward_head: ``"two_hot"`` (cross-entropy over bins in symlog space) or ``"scalar"`` (squared error).
    :param num_bins: Number of bins of the two-hot head.
    :param bin_low: Center of the first bin, in symlog units.
    :param bin_high: Center of the last bin, in symlog units.
    :param termination: Whether there is a termination head; without it every step continues.
    :param activation: Hidden activation, of :data:`ACTIVATIONS`: ``"mish"`` (TD-MPC2), ``"silu"``, ``"relu"``, ... On a
        CPU ``"silu"`` takes a seventh of Mish's time for nearly the same function.
    :param tasks: Names of the tasks of a multi-task model, in the order of their embedding rows; empty: single-task.
    :param task_dim: Size of the task embedding.
    :raises ValueError: If a field has no valid value; the message names it.
    """

    observation_dim: int
    action_dim: int
    latent_dim: int = 512
    encoder_dim: int = 256
    encoder_layers: int = 2
    mlp_dim: int = 512
    simnorm_dim: int = 8
    reward_head: str = "two_hot"
    num_bins: int = 101
    bin_low: float = -10.0
    bin_high: float = 10.0
    termination: bool = False
    activation: str = "mish"
    tasks: tuple[str, ...] = ()
    task_dim: int = 96

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        sizes = "observation_dim action_dim latent_dim encoder_dim encoder_layers mlp_dim simnorm_dim num_bins task_dim"
        for name in sizes.split():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"WorldModelConfig: {name} must be a positive integer, got {value!r}.")
            object.__setattr__(self, name, int(value))  # spaces count in numpy integers, which JSON refuses
        if self.latent_dim % self.simnorm_dim:
            raise ValueError(
                f"WorldModelConfig: latent_dim ({self.latent_dim}) must be a multiple of "
                f"simnorm_dim ({self.simnorm_dim})."
            )
        if self.encoder_layers < 2:
            raise ValueError(f"WorldModelConfig: encoder_layers must be at least 2, got {self.encoder_layers}.")
        if self.reward_head not in REWARD_HEADS:
            raise ValueError(f"WorldModelConfig: reward_head must be one of {REWARD_HEADS}, got {self.reward_head!r}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"WorldModelConfig: activation must be one of {tuple(ACTIVATIONS)}, got {self.activation!r}."
            )
        if self.num_bins < 2 or not self.bin_low < self.bin_high:
            raise ValueError(
                "WorldModelConfig: the two-hot head needs num_bins >= 2 and bin_low < bin_high, "
                f"got {self.num_bins}, {self.bin_low}, {self.bin_high}."
            )
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"WorldModelConfig: tasks must be distinct, got {self.tasks}.")

    @classmethod
    def preset(cls, size: str, **fields: Any) -> "WorldModelConfig":
        """
        A configuration of one of TD-MPC2's model sizes, or the smaller one for a single task on a CPU.

        :param size: ``"200K"``, ``"1M"``, ``"5M"``, ``"19M"``, ``"48M"`` or ``"317M"``.
        :param fields: ``observation_dim``, ``action_dim`` and any field that departs from the preset.
        :raises ValueError: If the size is unknown.
        """
        if size not in PRESETS:
            raise ValueError(f"Unknown world model size {size!r}: choose one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[size], **fields})

    @classmethod
    def resolve(cls, world_model: "str | Mapping[str, Any] | WorldModelConfig", **defaults: Any) -> "WorldModelConfig":
        """
        The configuration that a ``world_model`` argument stands for.

        :param world_model: Name of a preset; fields, with the preset that they depart from as ``size`` (the default is
            :data:`DEFAULT_SIZE`); or a configuration, which is returned as it is.
        :param defaults: Fields that count where neither ``world_model`` nor the preset names them.
        :return: The configuration.
        :raises ValueError: If a preset or a field is unknown, or a value is not valid; the message names it.
        """
        if isinstance(world_model, WorldModelConfig):
            return world_model
        fields: dict[str, Any] = {"size": world_model} if isinstance(world_model, str) else dict(world_model)
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name != "size" and name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                remedy = f"did you mean {near[0]!r}?" if near else f"its fields are {', '.join(known)}, and size."
                raise ValueError(f"A world model has no field {name!r}: {remedy}")
        return cls.preset(fields.pop("size", DEFAULT_SIZE), **{**defaults, **fields})
