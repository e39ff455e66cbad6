"""The actor and its distribution, a tanh-Gaussian. The critics are a :class:`~sb3_pwm.common.layers.EnsembleMLP`."""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch as th
import torch.nn.functional as F
from torch import nn

from sb3_pwm.common.layers import NormedLinear, at_least_float32, mlp

LOG_STD_MAX = 2.0


def squashed_action(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> th.Tensor:
    """
    Reparameterized sample of a tanh-Gaussian, ``a = tanh(mean + std * noise)``.

    :param mean: ``(..., A)`` mean before the tanh.
    :param log_std: ``(..., A)`` log standard deviation before the tanh.
    :param noise: ``(..., A)`` standard normal noise.
    :return: Actions ``(..., A)`` in [-1, 1].
    """
    return th.tanh(mean + log_std.exp() * noise)


def squashed_log_prob(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> th.Tensor:
    """
    Log-density of the action that :func:`squashed_action` returns for the same arguments.

    :param mean: ``(..., A)`` mean before the tanh.
    :param log_std: ``(..., A)`` log standard deviation before the tanh.
    :param noise: ``(..., A)`` standard normal noise.
    :return: Log-densities ``(...)``.
    """
    pre_tanh = mean + log_std.exp() * noise
    gaussian = -0.5 * noise**2 - log_std - 0.5 * math.log(2.0 * math.pi)
    # log(1 - tanh(u)^2), in the form that does not underflow for large |u|
    log_slope = 2.0 * (math.log(2.0) - pre_tanh - F.softplus(-2.0 * pre_tanh))
    return (gaussian - log_slope).sum(-1)


class Actor(nn.Module):
    """
    Tanh-Gaussian policy over latents. The mean is a network; the log standard deviation is a parameter per dimension.

    :param latent_dim: Size of the latent, Z.
    :param action_dim: Size of the action, A.
    :param net_arch: Sizes of the hidden layers.
    :param activation_fn: Class of the hidden layers' activation.
    :param log_std_init: Initial log standard deviation before the tanh.
    :param log_std_min: Floor of the log standard deviation, so that exploration never stops.
    :param normalization: What latents pass through first. None: nothing.
    """

    def __init__(
        self,
        latent_dim: int,
        action_dim: int,
        net_arch: Sequence[int],
        activation_fn: type[nn.Module],
        log_std_init: float = -1.0,
        log_std_min: float = -1.427,
        normalization: nn.Module | None = None,
    ):
        super().__init__()
        self.log_std_min = log_std_min
        self.normalization = normalization or nn.Identity()
        self.mean = mlp(latent_dim, net_arch, action_dim, activation_fn)
        self.log_std = nn.Parameter(th.full((action_dim,), log_std_init))

    def forward(self, latents: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """
        :param latents: ``(..., Z)`` latents.
        :return: Mean and log standard deviation before the tanh, ``(..., A)`` each.
        """
        mean = at_least_float32(self.mean(self.normalization(latents)))
        return mean, self.log_std.clamp(self.log_std_min, LOG_STD_MAX).expand_as(mean)

    def dropout_masks(self, n_rows: int, dropout: float) -> list[th.Tensor]:
        """
        Draw which units of the hidden layers are left out.

        :param n_rows: Number of latents, M.
        :param dropout: Probability that a unit is left out.
        :return: Factors ``(M, units)`` for each hidden layer: zero, or the inverse of the probability that a unit stays
        """
        units = [layer.out_features for layer in self.mean if isinstance(layer, NormedLinear)]
        return [F.dropout(self.log_std.new_ones(n_rows, number), dropout) for number in units]

    def masked_means(self, latents: th.Tensor, masks: Sequence[th.Tensor]) -> th.Tensor:
        """
        Compute means with units of the hidden layers left out (dropout).

        The masks are an argument, so that the loss is the same function each time L-BFGS evaluates it.

        :param latents: ``(M, Z)`` latents.
        :param masks: What :meth:`dropout_masks` returns.
        :return: ``(M, A)`` means before the tanh.
        """
        *hidden, last = self.mean
        x = self.normalization(latents)
        for layer, mask in zip(hidden, masks, strict=True):
            x = layer(x) * mask
        return at_least_float32(last(x))

    def predict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: other algorithms' actors take observations."""
        raise NotImplementedError("PWM's actor acts on the world model's latent: call the policy's predict() instead.")
