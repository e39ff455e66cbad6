"""Meta-World's 50 tasks (arXiv 1910.10897), as TD-MPC2 uses them: goal observable, action repeat 2, 100 agent steps."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sb3_pwm.envs.arguments import check_action, check_arguments
from sb3_pwm.envs.rendering import HOW_TO_RENDER, check_rendering, fit_picture, import_suite
from sb3_pwm.tasks import META_WORLD_TASKS

# TD-MPC2's videos are of this camera, moved closer.
_CAMERA, _CAMERA_POSITION = "corner2", (0.75, 0.075, 0.7)


class MetaWorldEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A task of Meta-World; what ``gymnasium.make("Mw-reach")`` builds.

    Object and goal are placed anew in every episode, and ``reset(seed=)`` decides where (Meta-World's own ignores it).
    The reward is the sum over the repeated control steps; episodes end by the registered ``max_episode_steps`` only,
    well before the 500 control steps beyond which Meta-World refuses to go.

    :param task: Meta-World's name of the task without its version, e.g. ``"button-press-topdown"``.
    :param action_repeat: Control steps per agent step, at least 1.
    :param render_mode: ``"rgb_array"``, or None for an environment that draws nothing.
    :param width: Width of a rendered picture in pixels.
    :param height: Height of a rendered picture in pixels.
    :raises ImportError: if Meta-World is not installed; the message says how to install it.
    :raises ValueError: if there is no such task, or an argument is not one of the above.
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
        if task not in META_WORLD_TASKS:
            nearest = difflib.get_close_matches(task, META_WORLD_TASKS, n=3, cutoff=0.0)
            raise ValueError(f"Meta-World has no task {task!r}; nearest: {nearest}")
        check_arguments(action_repeat, render_mode, width, height)
        import_suite()  # chooses the graphics library, which MuJoCo does not change once it is imported
        try:
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE  # an extra
        except ImportError as error:
            raise ImportError(
                f"Mw-{task} needs Meta-World, which is not installed: pip install 'sb3-pwm[metaworld]'"
            ) from error
        self.task = task
        self.action_repeat = action_repeat
        self.render_mode = render_mode
        self.width = width
        self.height = height
        self._sawyer = ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[f"{task}-v3-goal-observable"]()
        # Places are drawn at every reset, and from the environment's own generator in place of numpy's global one.
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
        """Starts a new episode.

        :param seed: Restarts the generator of places from this seed; None goes on with it.
        :param options: None is known; any are ignored.
        :return: The first observation, (39,), and an empty dict.
        """
        super().reset(seed=seed)
        self._sawyer.np_random = self.np_random
        observation, _ = self._sawyer.reset()
        return observation.astype(np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Applies one action for ``action_repeat`` control steps.

        :param action: (4,), in [-1, 1].
        :return: The observation (39,), the summed reward, False, False, and ``success`` (1.0 or 0.0) and
            ``is_success`` of the last control step.
        :raises ValueError: if the action has another shape than the action space, or Meta-World's 500 control steps
            are over (the registered environments are truncated long before).
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
        """Draws the current state.

        :return: The picture, (height, width, 3), or None if the environment was made without a ``render_mode``.
        :raises RuntimeError: if the graphics library cannot draw; the message says what to install.
        """
        if self.render_mode is None:
            return None
        check_rendering()
        if self._renderer is None:
            import mujoco  # after the choice of its graphics library

            fit_picture(self._sawyer.model, self.width, self.height)
            try:
                self._renderer = mujoco.Renderer(self._sawyer.model, self.height, self.width)
            except Exception as error:  # each backend has errors of its own
                raise RuntimeError(
                    f"MuJoCo cannot draw: {error}. If it was imported before this environment was made, it has chosen "
                    f"its graphics library itself: set MUJOCO_GL first. {HOW_TO_RENDER}"
                ) from error
        self._renderer.update_scene(self._sawyer.data, camera=_CAMERA)
        return np.asarray(self._renderer.render())[::-1, ::-1].copy()  # the camera hangs upside down

    def close(self) -> None:
        """Frees the simulation and what it holds of the graphics library. The environment cannot be used again."""
        if self._renderer is not None:
            self._renderer.close()
        self._sawyer.close()
