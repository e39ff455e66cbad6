"""What decides the outcome of a pretraining run, beside data and model."""

import dataclasses
import math

from sb3_pwm.data.dataset import BALANCES


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """
    What decides the outcome of a pretraining run, beside data and model.

    :param steps: Number of updates.
    :param batch_size: Sequences per update, over all processes.
    :param horizon: Steps of a sequence, H.
    :param learning_rate: Adam's, after the warm-up.
    :param warmup_steps: Updates over which it rises linearly from zero.
    :param final_lr_fraction: Where it ends, as a share of ``learning_rate``, along half a cosine; 1: no decay.
    :param rho: See :func:`~sb3_pwm.world_model.losses.world_model_loss`.
    :param balance: See :meth:`~sb3_pwm.data.dataset.OfflineDataset.sample`.
    :param grad_accumulation_steps: Number of parts into which a context cuts its batch, one after the other: less memory, the same
        update.
    :param precision: ``"float32"``, or ``"bfloat16"``: the networks' products under ``torch.autocast``.
    :param validation_fraction: Share of each task's episodes that is held out.
    :param seed: Decides batches and held-out episodes; the model's first weights too, where it is made here.
    :raises ValueError: If one is out of range; the message names it.
    """

    steps: int = 50_000
    batch_size: int = 256
    horizon: int = 16
    learning_rate: float = 3e-4
    warmup_steps: int = 500
    final_lr_fraction: float = 0.1
    rho: float = 0.99
    balance: str = "size"
    grad_accumulation_steps: int = 1
    precision: str = "float32"
    validation_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, minimum in dict(steps=1, batch_size=1, horizon=1, grad_accumulation_steps=1, warmup_steps=0).items():
            if getattr(self, name) < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {getattr(self, name)!r}.")
        for name in ("final_lr_fraction", "rho"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)!r}.")
        if not self.learning_rate > 0.0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate!r}.")
        if self.balance not in BALANCES:
            raise ValueError(f"balance must be one of {BALANCES}, got {self.balance!r}.")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f'precision must be "float32" or "bfloat16", got {self.precision!r}.')

    def learning_rate_at(self, step: int) -> float:
        """:param step: Of the update, from 0. :return: Its learning rate."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        cosine = (1.0 + math.cos(math.pi * progress)) / 2.0
        return self.learning_rate * (self.final_lr_fraction + (1.0 - self.final_lr_fraction) * cosine)
