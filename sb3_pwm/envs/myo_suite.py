"""
The ten tasks of MyoSuite's hand (arXiv 2205.13600), as TD-MPC2 uses them.

39 muscles move the hand. An episode has 100 control steps, and failures do not end it.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sb3_pwm.common.checks import check_name
from sb3_pwm.envs.arguments import check_action, check_arguments
from sb3_pwm.envs.rendering import import_suite, open_renderer
from sb3_pwm.tasks import MYOSUITE_TASKS

# The camera of TD-MPC2's videos
_CAMERA = "hand_side_inter"


class MyoSuiteEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """
    Environment of a task of MyoSuite. ``gymnasium.make("Myo-reach")`` makes this class.

    Observations, actions and rewards are those of MyoSuite. Only the registered ``max_episode_steps`` ends an episode:
    MyoSuite's own time limits are not applied, and where MyoSuite ends an episode (a dropped object), the episode goes
    on, as in TD-MPC2. ``reset(seed=)`` determines the episode.

    :param task: Name of the task in TD-MPC2 without the prefix, such as ``"reach-hard"``.
    :param render_mode: ``"rgb_array"`` to render images, or None.
    :param width: Width of a rendered image in pixels.
    :param height: Height of a rendered image in pixels.
    :raises ImportError: If MyoSuite is not installed. The message says how to install it.
    :raises ValueError: If there is no such task, or an argument has an invalid value.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (as Gymnasium has it)

    def __init__(self, task: str, render_mode: str | None = None, width: int = 480, height: int = 480) -> None:
        check_name("task", task, MYOSUITE_TASKS, "MyoSuite")
        check_arguments(1, render_mode, width, height)
        import_suite()  # chooses the graphics library, which MuJoCo reads once, when it is imported
        try:
            from myosuite import make_env  # MyoSuite is an optional package
        except ImportError as error:
            raise ImportError(
                f"Myo-{task} needs MyoSuite, which is not installed: pip install 'sb3-pwm[myosuite]'."
            ) from error
        self.task = task
        self.render_mode = render_mode
        self.width = width
        self.height = height
        self._hand: Any = make_env(MYOSUITE_TASKS[task]).unwrapped  # without the wrappers, which end episodes
        self.metadata = {**self.metadata, "render_fps": round(1 / self._hand.dt)}
        self._renderer: Any = None
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, self._hand.action_space.shape, np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, self._hand.observation_space.shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """
        Start a new episode.

        :param seed: Seed of the generator of goals, objects and poses. None: the generator is kept.
        :param options: Ignored.
        :return: First observation ``(O,)``, and an empty dictionary.
        """
        super().reset(seed=seed)
        observation, _ = self._hand.reset(seed=seed)
        return observation, {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """
        Apply an action for one control step, which takes 20 ms, and 10 ms in the pen's tasks.

        :param action: Action ``(39,)`` in [-1, 1], which MyoSuite maps to excitations in (0, 1) by a sigmoid.
        :return: Observation ``(O,)``, reward, False, False, and a dictionary with ``success`` (1.0 or 0.0) and
            ``is_success``: whether the task is solved after this step.
        :raises ValueError: If the action does not have the shape of the action space.
        """
        assert self.action_space.shape is not None
        observation, reward, _, _, info = self._hand.step(check_action(action, self.action_space.shape))
        success = float(info["solved"])
        return observation, reward, False, False, {"success": success, "is_success": success > 0.0}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """
        Render the current state.

        :return: Image ``(height, width, 3)``, or None if the environment was made without a ``render_mode``.
        :raises RuntimeError: If the graphics library cannot render. The message says what to install.
        """
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = open_renderer(self._hand.model, self.width, self.height)
        self._renderer.update_scene(self._hand.data, camera=_CAMERA)
        return self._renderer.render()

    def close(self) -> None:
        """Free the memory of the graphics library. The environment cannot be rendered afterwards."""
        if self._renderer is not None:
            self._renderer.close()
