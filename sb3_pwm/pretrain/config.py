"""Configuration of a pretraining run."""

import dataclasses
import inspect
import math
from typing import Any, Literal

from sb3_pwm.common.checks import check_choice, check_number, reject_unknown_keywords
from sb3_pwm.common.precision import PRECISIONS
from sb3_pwm.data.dataset import BALANCES

RENAMED = {
    "final_learning_rate": "it is called final_lr_fraction now.",
    "validation": "it is called validation_fraction now.",
    "accumulate": "it is called grad_accumulation_steps now.",
}


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """
    Configuration of a pretraining run. Together with the data and the world model it determines the result.

    :param steps: Number of updates.
    :param batch_size: Number of sequences per update, over all processes.
    :param horizon: Number of steps of a sequence, H. The paper has 16, for imagined rollouts as long. One step more
        than PWM's default rollouts is enough, and takes a quarter of the time.
    :param learning_rate: Learning rate of Adam after the warm-up.
    :param warmup_steps: Number of updates over which the learning rate rises linearly from zero.
    :param final_lr_fraction: Final learning rate as a fraction of the learning rate. It is reached along half a cosine.
        1: the learning rate does not decay.
    :param rho: Decay of the weights in the loss. Step t of a sequence has weight rho ** t.
    :param balance: How often a task is sampled: in proportion to the number of its sequences (size), or as often as
        every other task (task).
    :param ends_fraction: Fraction of a task's sequences that are of the last steps of an episode that terminated, where
        there are such episodes. Otherwise a model sees ends too rarely to learn them, and imagines that nothing ends.
    :param grad_accumulation_steps: Number of parts into which each process cuts its batch. More parts need less memory
        for the same update.
    :param precision: float32, or bfloat16 for matrix products in bfloat16 (torch.autocast). auto: bfloat16 on CPUs with
        AVX512-BF16 or AMX if the networks have a width of 512 (5M) or more, else float32.
    :param validation_fraction: Share of the episodes of each task that is held out, above 0 and below 1.
    :param seed: Seed of the batches, the choice of the held-out episodes, and the initial weights of a new model.
    :raises ValueError: If a value is out of range. The message names it.
    """

    steps: int = 50_000
    batch_size: int = 256
    horizon: int = 4
    learning_rate: float = 5e-4
    warmup_steps: int = 500
    final_lr_fraction: float = 0.1
    rho: float = 0.99
    balance: Literal["size", "task"] = "task"
    ends_fraction: float = 0.125
    grad_accumulation_steps: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validation_fraction: float = 0.05
    seed: int = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> "PretrainConfig":
        reject_unknown_keywords(cls, kwargs, RENAMED)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "horizon", "grad_accumulation_steps"):
            check_number(name, getattr(self, name), 1, integer=True)
        for name in ("warmup_steps", "seed"):
            check_number(name, getattr(self, name), 0, integer=True)
        check_number("learning_rate", self.learning_rate, 0.0, above=True)
        check_number("final_lr_fraction", self.final_lr_fraction, 0.0, 1.0)
        check_number("rho", self.rho, 0.0, 1.0)
        check_number("ends_fraction", self.ends_fraction, 0.0, 1.0)
        check_number("validation_fraction", self.validation_fraction, 0.0, 1.0, above=True, below=True)
        check_choice("balance", self.balance, BALANCES)
        check_choice("precision", self.precision, PRECISIONS)

    def learning_rate_at(self, step: int) -> float:
        """
        Get the learning rate of an update.

        :param step: Index of the update, from 0.
        :return: Learning rate of the update.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        cosine = (1.0 + math.cos(math.pi * progress)) / 2.0
        return self.learning_rate * (self.final_lr_fraction + (1.0 - self.final_lr_fraction) * cosine)


# Without it, help() would show the arguments of __new__.
_signature = inspect.signature(PretrainConfig.__init__)
_fields = list(_signature.parameters.values())[1:]
PretrainConfig.__signature__ = _signature.replace(parameters=_fields)  # type: ignore[attr-defined]
