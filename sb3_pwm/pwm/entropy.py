"""SAC's entropy coefficient (arXiv 1812.05905, section 5), fixed or learned, for an SB3 algorithm."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import TensorDict

from sb3_pwm.pwm.arguments import parse_ent_coef
from sb3_pwm.pwm.losses import ent_coef_loss

# The imagined gradient saturates a tanh within hundreds of updates: the coefficient must be faster than the actor.
ENT_COEF_LEARNING_RATE = 3e-3
TARGET_ENTROPY_PER_DIMENSION = -0.25


class EntropyCoefficientMixin(BaseAlgorithm):
    """
    Entropy coefficient of an algorithm, with the attributes of SB3's SAC: ``ent_coef`` and ``target_entropy``;
    ``log_ent_coef`` and ``ent_coef_optimizer`` if the coefficient is learned, else ``ent_coef_tensor``.
    """

    ent_coef: float | str
    target_entropy: float | str
    log_ent_coef: th.Tensor | None = None
    ent_coef_optimizer: th.optim.Optimizer | None = None
    ent_coef_tensor: th.Tensor | None = None

    def _setup_ent_coef(self) -> None:
        """Start the coefficient, and resolve ``target_entropy="auto"``."""
        if self.target_entropy == "auto":
            self.target_entropy = TARGET_ENTROPY_PER_DIMENSION * float(np.prod(self.action_space.shape or ()))
        initial, learned = parse_ent_coef(self.ent_coef)
        self.log_ent_coef = self.ent_coef_optimizer = self.ent_coef_tensor = None
        if learned:
            self.log_ent_coef = th.full((1,), np.log(initial), dtype=th.float32, device=self.device, requires_grad=True)
            self.ent_coef_optimizer = th.optim.Adam([self.log_ent_coef], lr=ENT_COEF_LEARNING_RATE, fused=True)
        else:
            self.ent_coef_tensor = th.tensor(initial, device=self.device)

    def _ent_coef(self) -> th.Tensor:
        """:return: The coefficient, a scalar without gradient."""
        if self.log_ent_coef is None:
            assert self.ent_coef_tensor is not None
            return self.ent_coef_tensor
        return self.log_ent_coef.detach().exp().squeeze()

    def _update_ent_coef(self, log_prob: th.Tensor) -> None:
        """
        Make a step towards the target entropy, if the coefficient is learned.

        :param log_prob: Mean log-density of the policy's actions, a scalar without gradient.
        """
        if self.log_ent_coef is not None and self.ent_coef_optimizer is not None:
            self.ent_coef_optimizer.zero_grad()
            ent_coef_loss(self.log_ent_coef, log_prob, float(self.target_entropy)).backward()
            self.ent_coef_optimizer.step()

    @classmethod
    def load(cls, *args: Any, ent_coef: float | str | None = None, **kwargs: Any) -> Any:
        """
        Load a model, see :meth:`~sb3_pwm.common.off_policy_algorithm.RobustOffPolicyAlgorithm.load`.

        :param ent_coef: Entropy coefficient that replaces the saved one and starts anew.
        """
        model = super().load(*args, **kwargs)
        if ent_coef is not None:  # afterwards: the file has a state of its own for it, or has none
            model.ent_coef = ent_coef
            model._setup_ent_coef()
        return model

    def _check_parameters(self, parameters: TensorDict) -> None:
        if "ent_coef_optimizer" in parameters and self.ent_coef_optimizer is None:
            raise ValueError(
                "The parameters are of a model that learns its entropy coefficient, this model's is fixed "
                f"(ent_coef={self.ent_coef!r}): leave 'ent_coef_optimizer' out of them."
            )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "ent_coef_tensor"]  # made anew from ent_coef

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        if self.ent_coef_optimizer is None:
            return state_dicts, tensors
        return [*state_dicts, "ent_coef_optimizer"], [*tensors, "log_ent_coef"]
