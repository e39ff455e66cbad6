"""Gymnasium's pendulum with images as observations: a task that is learned from images on a CPU in minutes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from numpy.typing import NDArray

SIZE = 40
"""Width and height of the images in pixels"""
ROD_LENGTH, ROD_WIDTH = 0.8, 0.12
"""Length and width of the rod, in units of half the image"""


def draw_rod(angle: float, size: int = SIZE) -> NDArray[np.uint8]:
    """
    Draw a bright rod with a smooth edge, from the center of the image outward.

    :param angle: Angle of the rod in radians, counter-clockwise from upright.
    :param size: Width and height of the image in pixels.
    :return: Image ``(size, size)``.
    """
    axis = np.linspace(-1.0, 1.0, size)
    x, y = axis[None, :], -axis[:, None]  # the first row is at the top
    end_x, end_y = -ROD_LENGTH * np.sin(angle), ROD_LENGTH * np.cos(angle)
    along = np.clip((x * end_x + y * end_y) / ROD_LENGTH**2, 0.0, 1.0)
    distance = np.hypot(x - along * end_x, y - along * end_y)
    return (255.0 * np.clip(1.5 - distance / ROD_WIDTH, 0.0, 1.0)).astype(np.uint8)


class PendulumImages(PendulumEnv):
    """
    Pendulum-v1 with images as observations. Rewards and actions are those of Pendulum-v1.

    :param velocity: Whether the observation is a ``Dict`` of ``image`` ``(1, 40, 40)``, the current picture, and
        ``velocity`` ``(1,)``, the angular velocity in rad/s. If not, it is an image ``(2, 40, 40)`` of the current and
        the previous picture.
    :param render_mode: Render mode, as for Pendulum-v1.
    """

    def __init__(self, velocity: bool = False, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.velocity = velocity
        image = spaces.Box(0, 255, (1 if velocity else 2, SIZE, SIZE), np.uint8)
        speeds = spaces.Box(-self.max_speed, self.max_speed, (1,), np.float32)
        self.observation_space = spaces.Dict(image=image, velocity=speeds) if velocity else image
        self._picture: NDArray[np.uint8] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """
        Start a new episode.

        :param seed: Seed, as for Pendulum-v1.
        :param options: Options, as for Pendulum-v1.
        :return: First observation, in which the previous picture is the current one, and an empty dictionary.
        """
        observation, info = super().reset(seed=seed, options=options)
        self._picture = None
        return self._see(observation), info

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """
        Apply a torque.

        :param action: Torque ``(1,)`` in Nm.
        :return: Observation, and reward, terminated, truncated and info of Pendulum-v1.
        """
        observation, reward, terminated, truncated, info = super().step(action)
        return self._see(observation), float(reward), terminated, truncated, info

    def _see(self, observation: NDArray[np.float32]) -> Any:
        """:return: Observation of this environment for an observation of Pendulum-v1."""
        cos, sin, velocity = observation
        before, self._picture = self._picture, draw_rod(float(np.arctan2(sin, cos)))
        if self.velocity:
            return {"image": self._picture[None], "velocity": np.array([velocity], np.float32)}
        return np.stack([self._picture, self._picture if before is None else before])
