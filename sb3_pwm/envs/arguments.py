"""Checks of the arguments and actions that all environments of the package share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_pwm.common.checks import check_choice, check_number


def check_arguments(action_repeat: int, render_mode: str | None, width: int, height: int) -> None:
    """
    Check the arguments of an environment.

    :param action_repeat: Number of control steps per agent step.
    :param render_mode: ``"rgb_array"`` or None.
    :param width: Width of a rendered image in pixels.
    :param height: Height of a rendered image in pixels.
    :raises ValueError: If an argument has an invalid value. The message names it.
    """
    for name, value in (("action_repeat", action_repeat), ("width", width), ("height", height)):
        check_number(name, value, 1, integer=True)
    check_choice("render_mode", render_mode, (None, "rgb_array"))


def check_action(action: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """
    Check the shape of an action.

    :param action: The action.
    :param shape: Shape of the action space.
    :return: The action as an array.
    :raises ValueError: If the action has another shape.
    """
    action = np.asarray(action)
    if action.shape != shape:
        raise ValueError(f"The action has the shape {action.shape}, the action space has {shape}.")
    return action
