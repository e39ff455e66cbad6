"""What the package's environments refuse, and how they say so."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_arguments(action_repeat: int, render_mode: str | None, width: int, height: int) -> None:
    """Checks what every environment of the package is made with.

    :param action_repeat: Control steps per agent step.
    :param render_mode: ``"rgb_array"`` or None.
    :param width: Width of a rendered picture in pixels.
    :param height: Height of a rendered picture in pixels.
    :raises ValueError: if one of them is something else; the message names it.
    """
    if action_repeat < 1:
        raise ValueError(f"action_repeat is {action_repeat}, but an agent step takes at least 1 control step")
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode is {render_mode!r}, but only 'rgb_array' or None can be drawn")
    if width < 1 or height < 1:
        raise ValueError(f"width and height are {width} and {height}, but a picture has at least 1 pixel of each")


def check_action(action: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """Checks the shape of an action.

    :param action: The action.
    :param shape: The action space's shape.
    :return: The action as an array.
    :raises ValueError: if it has another shape.
    """
    action = np.asarray(action)
    if action.shape != shape:
        raise ValueError(f"the action has shape {action.shape}, but this task's is {shape}")
    return action
