"""The functions that an update spends its time in, as they are or compiled."""

from collections.abc import Callable
from functools import partial

import torch as th

from sb3_pwm.common.compilation import Compiler
from sb3_pwm.pwm.imagination import LatentRollout, checkpointed_step, imagine, imagined_outcomes, imagined_step
from sb3_pwm.pwm.policies import PWMPolicy
from sb3_pwm.world_model.losses import WorldModelLoss, prediction_errors, world_model_loss
from sb3_pwm.world_model.model import WorldModel

# The longest horizon that is compiled as one unrolled graph
LONGEST_UNROLLED = 4
AUTO_COMPILE = {"unrolled": 40_000, "parts": 5_000}
"""
Number of planned updates from which on ``compile="auto"`` compiles, from measurements on a CPU (docs/speed.md).
Unrolled: 100 s of compilation against 3.5 ms per update; parts: 20 s against a fifteenth of an update's 30 to 800 ms.
"""


class UpdateFunctions:
    """
    World-model loss, imagination and critics of a policy, as :meth:`PWM.train <sb3_pwm.PWM.train>` calls them.

    They are compiled by :meth:`compile`, not before the first update, since a model that only acts needs none of it.

    :param policy: The policy whose networks they are.
    :param gradient_checkpointing: Whether rollouts keep only their latents for the backward pass.
    """

    def __init__(self, policy: PWMPolicy, gradient_checkpointing: bool = False):
        self.gradient_checkpointing = gradient_checkpointing
        self.compiled = False
        self.world_model_loss: Callable[..., WorldModelLoss] = world_model_loss
        self.imagine: Callable[..., LatentRollout] = (
            partial(imagine, step=checkpointed_step) if gradient_checkpointing else imagine
        )
        self.critic: Callable[[th.Tensor], th.Tensor] = policy.critic
        self.critic_target: Callable[[th.Tensor], th.Tensor] = policy.critic_target

    def compile(self, horizon: int, device: th.device) -> None:
        """
        Compile what gains by it.

        :param horizon: Number of steps of a rollout.
        :param device: Device of the networks.
        """
        self.compiled = True
        compiler = Compiler()
        self.critic, self.critic_target = compiler(self.critic), compiler(self.critic_target)
        if horizon <= LONGEST_UNROLLED and not self.gradient_checkpointing:
            self.imagine, self.world_model_loss = compiler(imagine), compiler(world_model_loss)
        elif device.type != "cpu":
            # On a CPU these gain nothing (docs/speed.md); a GPU has fewer kernels to launch.
            step = checkpointed_step if self.gradient_checkpointing else compiler(imagined_step)
            self.imagine = partial(imagine, step=step, outcomes=compiler(imagined_outcomes))
            self.world_model_loss = partial(
                world_model_loss, step=compiler(WorldModel.next), errors=compiler(prediction_errors)
            )


def pays_to_compile(n_updates: float, horizon: int) -> bool:
    """
    Whether compilation saves more time than it takes.

    :param n_updates: Number of planned updates.
    :param horizon: Number of steps of a rollout.
    :return: Whether to compile.
    """
    return n_updates >= AUTO_COMPILE["unrolled" if horizon <= LONGEST_UNROLLED else "parts"]
