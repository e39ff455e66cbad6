"""Rewards that the two-hot reward head can tell apart: those between the outermost bins."""

import math
from typing import Any

from sb3_pwm.world_model.config import WorldModelConfig


def fitting_bins(
    rewards: tuple[float, float], bin_low: float | None = None, bin_high: float | None = None
) -> dict[str, Any]:
    """
    Choose the bins of a new world model for given data.

    :param rewards: Smallest and largest reward of the data.
    :param bin_low: Center of the first bin, in symlog units; None: the default.
    :param bin_high: Center of the last bin.
    :return: Fields ``bin_low`` and ``bin_high`` that reach all rewards; empty if the default bins do, or if others were
        chosen.
    """
    default = WorldModelConfig.bin_low, WorldModelConfig.bin_high
    chosen = default[0] if bin_low is None else bin_low, default[1] if bin_high is None else bin_high
    bins = _bins(rewards)
    return bins if chosen == default and bins["bin_high"] > default[1] else {}


def check_reward_range(config: WorldModelConfig, rewards: tuple[float, float], where: str) -> None:
    """
    Check that the reward head can tell rewards apart. A scalar head has no range.

    :param config: Configuration of the world model.
    :param rewards: Smallest and largest reward.
    :param where: Noun phrase for what has the rewards, for the message.
    :raises ValueError: If a reward is beyond the outermost bins. The message says which bins reach it.
    """
    low, high = _symexp(config.bin_low), _symexp(config.bin_high)
    if config.reward_head == "scalar" or (low <= rewards[0] and rewards[1] <= high):
        return
    extreme, limit = (rewards[1], high) if rewards[1] > high else (rewards[0], low)
    bins = ", ".join(f"{name}={value}" for name, value in _bins(rewards).items())
    message = (
        f"{where} has a reward of {extreme:g}, and the reward head of the world model ends at {limit:g}: beyond it, "
        f"all rewards are alike. A new world model reaches it with PWM(world_model=dict({bins}))"
    )
    if extreme / (limit or math.nan) > 1.0:
        divisor = 10 ** math.ceil(math.log10(extreme / limit))
        message += (
            f"; for this one, divide the rewards of environment and data by {divisor}, with "
            f"gymnasium.wrappers.TransformReward(env, lambda reward: reward / {divisor})"
        )
    raise ValueError(f"{message}.")


def _bins(rewards: tuple[float, float]) -> dict[str, float]:
    """:return: Bins that reach the rewards. Zero, which a new model predicts, is their center."""
    edge = float(math.ceil(math.log1p(max(abs(reward) for reward in rewards))))
    return {"bin_low": -edge, "bin_high": edge}


def _symexp(x: float) -> float:
    return math.copysign(math.expm1(abs(x)), x)
