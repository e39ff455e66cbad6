"""Configuration of a world model: the sizes and kinds of its networks."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from sb3_pwm.common.checks import check_choice, check_distinct, check_fields, check_number

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "mish": nn.Mish,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}
"""Activations of the hidden layers, by name"""
REWARD_HEADS = ("two_hot", "scalar")
"""Valid values of ``reward_head``"""

# The sizes of the TD-MPC2 release (arXiv 2310.16828, table 8), and a smaller one for learning one task on a CPU
PRESETS: dict[str, dict[str, int]] = {
    "200K": dict(encoder_dim=192, encoder_layers=2, mlp_dim=192, latent_dim=64),
    "1M": dict(encoder_dim=256, encoder_layers=2, mlp_dim=384, latent_dim=128),
    "5M": dict(encoder_dim=256, encoder_layers=2, mlp_dim=512, latent_dim=512),
    "19M": dict(encoder_dim=1024, encoder_layers=3, mlp_dim=1024, latent_dim=768),
    "48M": dict(encoder_dim=1792, encoder_layers=4, mlp_dim=1792, latent_dim=768),
    "317M": dict(encoder_dim=4096, encoder_layers=5, mlp_dim=4096, latent_dim=1376),
}
"""Fields of each preset, by name"""

DEFAULT_SIZE = "200K"
"""Preset for learning one task online on a CPU"""


@dataclasses.dataclass(frozen=True)
class WorldModelConfig:
    """
    Sizes and kinds of the networks of a world model.

    :param observation_dim: Size of the flat observation.
    :param action_dim: Size of the flat action.
    :param latent_dim: Size of the latent, Z. It must be a multiple of ``simnorm_dim``, unless that is 0.
    :param encoder_dim: Width of the hidden layers of the encoder.
    :param encoder_layers: Number of layers of the encoder including the output layer, at least 2.
    :param mlp_dim: Width of the two hidden layers of the dynamics, reward and termination networks.
    :param simnorm_dim: Group size of :class:`~sb3_pwm.common.layers.SimNorm`. 0: no SimNorm. The latent is then the
        output of the LayerNorm before it, for ablations.
    :param reward_head: ``"two_hot"`` for cross-entropy over bins in symlog space, ``"scalar"`` for squared error.
    :param num_bins: Number of bins of the two-hot head, at least 2.
    :param bin_low: Center of the first bin, in symlog units. Rewards beyond the outermost bins are all alike; the
        default bins reach from -22,000 to 22,000. A model that is made for given data gets bins that reach its rewards.
    :param bin_high: Center of the last bin, in symlog units.
    :param termination: Whether the model has a termination head. Without it, the model predicts that no episode
        terminates.
    :param behavior_head: Whether the model has a behavior head, which predicts the actions of the data from latents. So
        the latent keeps what the behaviors of the data looked at, also where it says little about the reward: a
        policy that acts on the latent needs it. The head has no other use.
    :param activation: Activation of the hidden layers, one of :data:`ACTIVATIONS`. ``"mish"`` is TD-MPC2's. On a CPU,
        ``"silu"`` takes a seventh of the time of ``"mish"``, for nearly the same function.
    :param tasks: Names of the tasks of a multi-task model, in the order of the rows of the task embedding. Empty for a
        single-task model.
    :param task_dim: Size of the task embedding.
    :param normalize_observations: Whether the encoder sees normalized observations. The model keeps their mean and
        standard deviation for each task.
    :raises ValueError: If a field has an invalid value. The message names the field.
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
    behavior_head: bool = False
    activation: str = "mish"
    tasks: tuple[str, ...] = ()
    task_dim: int = 96
    normalize_observations: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        sizes = ("observation_dim", "action_dim", "latent_dim", "encoder_dim", "mlp_dim", "task_dim")
        minima = {**dict.fromkeys(sizes, 1), "simnorm_dim": 0, "encoder_layers": 2, "num_bins": 2}
        for name, minimum in minima.items():
            value = getattr(self, name)
            check_number(f"WorldModelConfig: {name}", value, minimum, integer=True)
            object.__setattr__(self, name, int(value))  # spaces have numpy integers, which JSON cannot store
        if self.simnorm_dim and self.latent_dim % self.simnorm_dim:
            raise ValueError(
                f"WorldModelConfig: latent_dim ({self.latent_dim}) must be a multiple of "
                f"simnorm_dim ({self.simnorm_dim})."
            )
        check_choice("WorldModelConfig: reward_head", self.reward_head, REWARD_HEADS)
        check_choice("WorldModelConfig: activation", self.activation, tuple(ACTIVATIONS))
        check_number("WorldModelConfig: bin_low", self.bin_low)
        check_number("WorldModelConfig: bin_high", self.bin_high, self.bin_low, above=True)
        check_distinct("WorldModelConfig: tasks", self.tasks)

    @classmethod
    def preset(cls, size: str, **fields: Any) -> "WorldModelConfig":
        """
        Make a configuration of a preset size.

        :param size: ``"1M"``, ``"5M"``, ``"19M"``, ``"48M"`` or ``"317M"`` for a size of TD-MPC2, or ``"200K"`` for a
            smaller model, which learns one task on a CPU.
        :param fields: ``observation_dim``, ``action_dim``, and fields whose values replace those of the preset.
        :return: The configuration.
        :raises ValueError: If the size is unknown, or a field has an invalid value.
        """
        check_choice("The size of a world model", size, tuple(PRESETS))
        return cls(**{**PRESETS[size], **fields})

    @classmethod
    def resolve(cls, world_model: "str | Mapping[str, Any] | WorldModelConfig", **defaults: Any) -> "WorldModelConfig":
        """
        Convert a ``world_model`` argument to a configuration.

        :param world_model: Name of a preset, a dictionary of fields, or a configuration. The fields replace those of
            the preset that the key ``size`` names; :data:`DEFAULT_SIZE` by default.
        :param defaults: Values of the fields that are neither in ``world_model`` nor in the preset.
        :return: The configuration.
        :raises ValueError: If a preset or a field is unknown, or a value is invalid. The message names it.
        """
        if isinstance(world_model, WorldModelConfig):
            return world_model
        fields: dict[str, Any] = {"size": world_model} if isinstance(world_model, str) else dict(world_model)
        check_fields("A world model", fields, ["size", *(field.name for field in dataclasses.fields(cls))])
        return cls.preset(fields.pop("size", DEFAULT_SIZE), **{**defaults, **fields})
