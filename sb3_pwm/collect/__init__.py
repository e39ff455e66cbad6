"""Collection of offline data: one Minari data set per task."""

from sb3_pwm.collect.behaviors import Behavior
from sb3_pwm.collect.run import collect

__all__ = ["Behavior", "collect"]
