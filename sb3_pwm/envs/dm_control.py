"""
dm_control's environments as Gymnasium environments with flat observations and normalized actions.

Shimmy's wrapper of dm_control is not used, for three reasons. It sorts the keys of the observation, so that the
flattened observation would not be the one in published data sets and world models. It sets one frame rate for all
environments of a process. And it computes an observation at every control step, although an agent sees only the last
one of its step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sb3_pwm.common.checks import check_name
from sb3_pwm.envs.arguments import check_action, check_arguments
from sb3_pwm.envs.rendering import HOW_TO_RENDER, check_rendering, fit_picture, import_suite
from sb3_pwm.tasks import CUSTOM_TASKS, DM_CONTROL_TASKS, MUSCLE_TASKS

if TYPE_CHECKING:
    from dm_control.rl import control

# Camera of each domain, if it is not the first one. The first camera of quadruped does not follow the robot.
_CAMERAS = {"quadruped": 2}

# dm_control reports plus and minus this number as the range of an actuator without limits.
_UNLIMITED = 1e10


class DMControlEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """
    Environment of dm_control with flat observations, normalized actions and action repeat.

    Observations are the entries of dm_control's observation, in dm_control's order, as one float32 vector. Actions are
    float32 in [-1, 1] and are mapped linearly to the control range of each actuator. Actions of an actuator without
    limits are not mapped. The reward is the sum over the repeated control steps. If dm_control ends the episode with
    discount 0, the step is ``terminated``. If dm_control ends it with another discount, the step is ``truncated``.

    dm_control's time limit is not applied. The registered ``max_episode_steps`` limits an episode, so that Gymnasium
    knows the limit.

    ``reset(seed=s)`` starts the same episode as ``suite.load(domain, task, task_kwargs={"random": s})``.

    :param environment: Environment of ``dm_control.rl.control``, whose task has the attribute ``random``, as all tasks
        of the suite do.
    :param action_repeat: Number of control steps per agent step, at least 1. There are fewer in the agent step in which
        the episode ends.
    :param render_mode: ``"rgb_array"`` to render images, or None.
    :param width: Width of a rendered image in pixels.
    :param height: Height of a rendered image in pixels.
    :param camera_id: Index or name of the camera; -1 is MuJoCo's free camera.
    :raises ValueError: If ``action_repeat``, ``render_mode``, ``width`` or ``height`` has an invalid value.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(
        self,
        environment: control.Environment,
        action_repeat: int = 2,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera_id: int | str = 0,
    ) -> None:
        check_arguments(action_repeat, render_mode, width, height)
        self.environment = environment
        self.action_repeat = action_repeat
        self.render_mode = render_mode
        self.width = width
        self.height = height
        self.camera_id = camera_id

        timestep = environment.control_timestep()
        self.metadata = {**self.metadata, "render_fps": 1.0 / (timestep * action_repeat)}
        self._physics_steps = round(timestep / environment.physics.timestep())

        action_spec = environment.action_spec()
        limited = np.abs(action_spec.minimum) < _UNLIMITED
        low = np.where(limited, action_spec.minimum, -1.0)
        high = np.where(limited, action_spec.maximum, 1.0)
        self._action_center = (high + low) / 2  # (A,)
        self._action_half_range = (high - low) / 2  # (A,)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, action_spec.shape, np.float32)

        observation_dim = sum(int(np.prod(spec.shape)) for spec in environment.observation_spec().values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (observation_dim,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """
        Start a new episode.

        :param seed: Seed of the random state of the task. None: the random state is kept.
        :param options: Ignored.
        :return: First observation ``(O,)``, and an empty dictionary.
        """
        super().reset(seed=seed)
        if seed is not None:
            # Gymnasium's seeds can be larger than 32 bits. RandomState takes 32 bits, or an array of 32-bit words.
            words = seed if seed < 2**32 else np.random.SeedSequence(seed).generate_state(4)
            self.environment.task.random.seed(words)
        return _flatten(self.environment.reset().observation), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """
        Apply an action for ``action_repeat`` control steps.

        :param action: Action ``(A,)`` in [-1, 1].
        :return: Observation ``(O,)``, sum of the rewards, terminated, truncated, and an empty dictionary.
        :raises ValueError: If the action does not have the shape of the action space.
        """
        action = check_action(action, self._action_center.shape)
        control = self._action_center + self._action_half_range * action

        # The same as control.Environment.step, without the observation of each control step, which takes 5 to 25% of
        # the time.
        task, physics = self.environment.task, self.environment.physics
        reward = 0.0
        discount = None
        for _ in range(self.action_repeat):
            task.before_step(control, physics)
            physics.step(self._physics_steps)
            task.after_step(physics)
            reward += task.get_reward(physics)
            discount = task.get_termination(physics)
            if discount is not None:
                break
        terminated = discount is not None and discount == 0.0
        truncated = discount is not None and not terminated
        return _flatten(task.get_observation(physics)), float(reward), terminated, truncated, {}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """
        Render the current state.

        :return: Image ``(height, width, 3)``, or None if the environment was made without a ``render_mode``.
        :raises RuntimeError: If the graphics library cannot render. The message says what to install.
        """
        if self.render_mode is None:
            return None
        # Not in the constructor: SB3's make_vec_env makes all environments with "rgb_array", rendered or not.
        check_rendering()
        physics = self.environment.physics
        fit_picture(physics.model, self.width, self.height)
        try:
            _ = physics.contexts  # opens the contexts, so that only their errors are caught here
        except Exception as error:  # each backend raises errors of other kinds
            raise RuntimeError(f"The OpenGL library cannot render: {error}. {HOW_TO_RENDER}") from error
        return physics.render(height=self.height, width=self.width, camera_id=self.camera_id)

    def close(self) -> None:
        """Free the memory of the simulation and the graphics library. The environment cannot be used afterwards."""
        self.environment.physics.free()
        self.environment.close()


class SuiteEnv(DMControlEnv):
    """
    Environment of a task of dm_control's suite, of MT30, or of the muscle humanoid. ``gymnasium.make("Dog-run")`` makes
    this class.

    :param domain: Name of the domain in dm_control, such as ``"ball_in_cup"``.
    :param task: Name of the task in dm_control, such as ``"turn_easy"``.
    :param action_repeat: Number of control steps per agent step, see :class:`DMControlEnv`.
    :param render_mode: ``"rgb_array"`` to render images, or None.
    :param width: Width of a rendered image in pixels.
    :param height: Height of a rendered image in pixels.
    :param camera_id: Index or name of the camera. None: a camera that shows the whole robot.
    :raises ValueError: If there is no such task. The message lists the nearest ones.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        action_repeat: int = 2,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera_id: int | str | None = None,
    ) -> None:
        tables = (*DM_CONTROL_TASKS.items(), *CUSTOM_TASKS.items(), *MUSCLE_TASKS.items())
        known = [f"{known_domain} {known_task}" for known_domain, tasks in tables for known_task in tasks]
        check_name("task", f"{domain} {task}", known)
        suite = import_suite()
        # The modules below import dm_control, and must wait for import_suite, which chooses the graphics library.
        if task in CUSTOM_TASKS.get(domain, ()):
            from sb3_pwm.envs import custom  # waits for dm_control

            environment = custom.load(domain, task, random=0)
        elif domain in MUSCLE_TASKS:
            from sb3_pwm.envs import muscle_humanoid  # waits for dm_control

            environment = muscle_humanoid.load(task, random=0)
        else:
            # The constructor of lqr draws the stiffness of the springs. With a fixed seed, all copies are the same.
            environment = suite.load(domain, task, task_kwargs={"random": 0})
        environment.task.random.seed()  # a seed of the operating system, until reset() is given one
        super().__init__(
            environment,
            action_repeat=action_repeat,
            render_mode=render_mode,
            width=width,
            height=height,
            camera_id=_CAMERAS.get(domain, 0) if camera_id is None else camera_id,
        )


def _flatten(observation: dict[str, Any]) -> NDArray[np.float32]:
    """:return: All entries of an observation in their order, as one vector."""
    # axis=None flattens the entries, which may be scalars.
    return np.concatenate(tuple(observation.values()), axis=None, dtype=np.float32)
