"""Gymnasium's pendulum, seen: a task small enough to learn from images on a CPU in minutes."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.pendulum import PendulumEnv
from numpy.typing import NDArray

SIZE = 40
ROD_LENGTH, ROD_WIDTH = 0.8, 0.12


def draw_rod(angle: float, size: int = SIZE) -> NDArray[np.uint8]:
    """
    :param angle: Of the rod in radians, zero upright, growing counter-clockwise.
    :param size: Of the picture, in pixels.
    :return: ``(size, size)``: a bright rod from the picture's center, smooth at its edge.
    """
    axis = np.linspace(-1.0, 1.0, size)
    x, y = axis[None, :], -axis[:, None]  # rows go down
    end_x, end_y = -ROD_LENGTH * np.sin(angle), ROD_LENGTH * np.cos(angle)
    along = np.clip((x * end_x + y * end_y) / ROD_LENGTH**2, 0.0, 1.0)
    distance = np.hypot(x - along * end_x, y - along * end_y)
    return (255.0 * np.clip(1.5 - distance / ROD_WIDTH, 0.0, 1.0)).astype(np.uint8)


class PendulumImages(PendulumEnv):
    """
    Pendulum-v1 with its own rewards and actions, and pictures for observations.

    :param velocity: False: the observation is an image ``(2, 40, 40)``, the last picture and the one before it, which
        tell angle and velocity. True: a ``Dict`` of the last picture, ``image`` of ``(1, 40, 40)``, and the angular
        ``velocity`` of ``(1,)``, in rad/s.
    :param render_mode: As Pendulum-v1's.
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
        :param seed: As Pendulum-v1's.
        :param options: As Pendulum-v1's.
        :return: The first observation, whose picture is also the one before it, and an empty dictionary.
        """
        observation, info = super().reset(seed=seed, options=options)
        self._picture = None
        return self._see(observation), info

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """:param action: Torque ``(1,)``, in Nm. :return: As Pendulum-v1's, with this environment's observation."""
        observation, reward, terminated, truncated, info = super().step(action)
        return self._see(observation), float(reward), terminated, truncated, info

    def _see(self, observation: NDArray[np.float32]) -> Any:
        cos, sin, velocity = observation
        before, self._picture = self._picture, draw_rod(float(np.arctan2(sin, cos)))
        if self.velocity:
            return {"image": self._picture[None], "velocity": np.array([velocity], np.float32)}
        return np.stack([self._picture, self._picture if before is None else before])
