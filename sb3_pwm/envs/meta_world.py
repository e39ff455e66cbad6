"""
The 50 tasks of Meta-World (arXiv 1910.10897), as TD-MPC2 uses them.

Goals are in the observation, and an episode has 100 agent steps of 2 control steps.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sb3_pwm.common.checks import check_name
from sb3_pwm.envs.arguments import check_action, check_arguments
from sb3_pwm.envs.rendering import import_suite, open_renderer
from sb3_pwm.tasks import META_WORLD_TASKS

# The camera of TD-MPC2's videos, which is moved closer
_CAMERA, _CAMERA_POSITION = "corner2", (0.75, 0.075, 0.7)


class MetaWorldEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """
    Environment of a task of Meta-World. ``gymnasium.make("Mw-reach")`` makes this class.

    Each episode has new positions of object and goal, which ``reset(seed=)`` determines. (Meta-World's own ``reset``
    ignores its seed.) The reward is the sum over the repeated control steps. Only the registered ``max_episode_steps``
    ends an episode. It is below 500 control steps, after which Meta-World raises an error.

    :param task: Name of the task in Meta-World without the version, such as ``"button-press-topdown"``.
    :param action_repeat: Number of control steps per agent step, at least 1.
    :param render_mode: ``"rgb_array"`` to render images, or None.
    :param width: Width of a rendered image in pixels.
    :param height: Height of a rendered image in pixels.
    :raises ImportError: If Meta-World is not installed. The message says how to install it.
    :raises ValueError: If there is no such task, or an argument has an invalid value.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 40}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(
        self,
        task: str,
        action_repeat: int = 2,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        check_name("task", task, META_WORLD_TASKS, "Meta-World")
        check_arguments(action_repeat, render_mode, width, height)
        import_suite()  # chooses the graphics library, which MuJoCo reads once, when it is imported
        try:
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE  # Meta-World is an optional package
        except ImportError as error:
            raise ImportError(
                f"Mw-{task} needs Meta-World, which is not installed: pip install 'sb3-pwm[metaworld]'."
            ) from error
        self.task = task
        self.action_repeat = action_repeat
        self.render_mode = render_mode
        self.width = width
        self.height = height
        self._sawyer = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"]()
        # Every reset draws positions, from the generator of the environment and not from numpy's global one.
        self._sawyer._freeze_rand_vec = False
        self._sawyer.seeded_rand_vec = True
        self._sawyer.model.cam(_CAMERA).pos[:] = _CAMERA_POSITION
        self._renderer: Any = None
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, self._sawyer.action_space.shape, np.float32)
        observation_shape = self._sawyer.observation_space.shape
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, observation_shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """
        Start a new episode.

        :param seed: Seed of the generator of positions. None: the generator is kept.
        :param options: Ignored.
        :return: First observation ``(39,)``, and an empty dictionary.
        """
        super().reset(seed=seed)
        self._sawyer.np_random = self.np_random
        observation, _ = self._sawyer.reset()
        return observation.astype(np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """
        Apply an action for ``action_repeat`` control steps.

        :param action: Action ``(4,)`` in [-1, 1].
        :return: Observation ``(39,)``, sum of the rewards, False, False, and a dictionary with ``success`` (1.0 or 0.0)
            and ``is_success`` of the last control step.
        :raises ValueError: If the action does not have the shape of the action space, or the episode has had
            Meta-World's 500 control steps, which registered environments do not reach.
        """
        assert self.action_space.shape is not None
        action = check_action(action, self.action_space.shape)
        reward = 0.0
        for _ in range(self.action_repeat):
            observation, step_reward, _, _, info = self._sawyer.step(np.clip(action, -1.0, 1.0))
            reward += float(step_reward)
        success = float(info["success"])
        return observation.astype(np.float32), reward, False, False, {"success": success, "is_success": success > 0.0}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """
        Render the current state.

        :return: Image ``(height, width, 3)``, or None if the environment was made without a ``render_mode``.
        :raises RuntimeError: If the graphics library cannot render. The message says what to install.
        """
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = open_renderer(self._sawyer.model, self.width, self.height)
        self._renderer.update_scene(self._sawyer.data, camera=_CAMERA)
        return np.asarray(self._renderer.render())[::-1, ::-1].copy()  # the camera is upside down

    def close(self) -> None:
        """Free the memory of the simulation and the graphics library. The environment cannot be used afterwards."""
        if self._renderer is not None:
            self._renderer.close()
        self._sawyer.close()
