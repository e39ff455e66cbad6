"""dm_control's environments as Gymnasium environments with flat observations and normalized actions.

dm_control is used directly, not through Shimmy's compatibility wrapper: that one's Dict observation space sorts its
keys, so the flattened observation would differ from the one that published data sets and world models hold; it
assigns one frame rate to all environments of a process; and a wrapper around it has to compute the observation of
every control step, also of those in the middle of an agent step that no one sees.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from sb3_pwm.envs.arguments import check_action, check_arguments
from sb3_pwm.envs.rendering import HOW_TO_RENDER, check_rendering, fit_picture, import_suite
from sb3_pwm.tasks import CUSTOM_TASKS, DM_CONTROL_TASKS, MUSCLE_TASKS

if TYPE_CHECKING:
    from dm_control.rl import control

# The camera that TD-MPC2's videos show, where it is not the first one: quadruped's first stays where it is while the
# robot walks out of the picture.
_CAMERAS = {"quadruped": 2}

# dm_control reports the control range of an actuator without limits as this, either side of zero.
_UNLIMITED = 1e10


class DMControlEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A dm_control environment with a flat observation, normalized actions and action repeat.

    Observations are the task's own, in dm_control's own key order, as one float32 vector. Actions are float32 in
    [-1, 1] and mapped linearly to each actuator's control range; an actuator without limits receives the action as
    it is. The reward is the sum over the repeated control steps. A task's own end with discount 0 is reported as
    ``terminated``, one with another discount as ``truncated``.

    The environment's own time limit is not applied: an episode's length is the business of the registered
    ``max_episode_steps``, so that Gymnasium, its spec and its users see one and the same limit.

    ``reset(seed=s)`` starts the episode that ``suite.load(domain, task, task_kwargs={"random": s})`` starts.

    :param environment: The environment of ``dm_control.rl.control`` to wrap; its task has a ``random`` state, as all
        of the suite's have.
    :param action_repeat: Control steps per agent step, at least 1. An episode that ends within an agent step ends it.
    :param render_mode: ``"rgb_array"``, or None for an environment that draws nothing.
    :param width: Width of a rendered picture in pixels.
    :param height: Height of a rendered picture in pixels.
    :param camera_id: Index or name of the camera to draw from; -1 is MuJoCo's free camera.
    :raises ValueError: if ``action_repeat``, ``render_mode`` or the picture's size is not one of the above.
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
        """Starts a new episode.

        :param seed: Restarts the task's random state from this seed; None goes on with it.
        :param options: None is known; any are ignored.
        :return: The first observation, (O,), and an empty dict.
        """
        super().reset(seed=seed)
        if seed is not None:
            # RandomState takes 32 bits, or words of 32 bits, where Gymnasium takes any non-negative integer.
            words = seed if seed < 2**32 else np.random.SeedSequence(seed).generate_state(4)
            self.environment.task.random.seed(words)
        return _flatten(self.environment.reset().observation), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Applies one action for ``action_repeat`` control steps.

        :param action: (A,), in [-1, 1].
        :return: The observation (O,), the summed reward, terminated, truncated and an empty dict.
        :raises ValueError: if the action has another shape than the action space.
        """
        action = check_action(action, self._action_center.shape)
        control = self._action_center + self._action_half_range * action

        # What control.Environment.step does, without the observations between: 5 to 25% of a step's time.
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
        """Draws the current state.

        :return: The picture, (height, width, 3), or None if the environment was made without a ``render_mode``.
        :raises RuntimeError: if the graphics library cannot draw; the message says what to install.
        """
        if self.render_mode is None:
            return None
        # Not when the environment is made: SB3's make_vec_env asks for "rgb_array" of every environment it makes, also
        # of those that nobody will look at.
        check_rendering()
        physics = self.environment.physics
        fit_picture(physics.model, self.width, self.height)
        try:
            _ = physics.contexts  # opened here, where a failure can be told from one of the picture's
        except Exception as error:  # Each backend, and PyOpenGL below them, has errors of its own.
            raise RuntimeError(f"the OpenGL library cannot be drawn with: {error}. {HOW_TO_RENDER}") from error
        return physics.render(height=self.height, width=self.width, camera_id=self.camera_id)

    def close(self) -> None:
        """Frees the simulation and what it holds of the graphics library. The environment cannot be used again."""
        self.environment.physics.free()
        self.environment.close()


class SuiteEnv(DMControlEnv):
    """A task of dm_control's suite, or one that is added to it; what ``gymnasium.make("Dog-run")`` builds.

    :param domain: dm_control's name of the domain, e.g. ``"ball_in_cup"``.
    :param task: dm_control's name of the task, e.g. ``"turn_easy"``.
    :param action_repeat: See `DMControlEnv`.
    :param render_mode: See `DMControlEnv`.
    :param width: See `DMControlEnv`.
    :param height: See `DMControlEnv`.
    :param camera_id: See `DMControlEnv`; None is the camera that shows the whole robot.
    :raises ValueError: if there is no such task; the message names the nearest ones.
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
        if not any(domain == a_domain and task in tasks for a_domain, tasks in tables):
            known = [f"{a_domain} {a_task}" for a_domain, tasks in tables for a_task in tasks]
            nearest = difflib.get_close_matches(f"{domain} {task}", known, n=3, cutoff=0.0)
            raise ValueError(f"there is no task {task!r} in a domain {domain!r}; nearest: {nearest}")
        suite = import_suite()
        # These modules import dm_control, whose graphics import_suite has chosen.
        if task in CUSTOM_TASKS.get(domain, ()):
            from sb3_pwm.envs import custom  # waits for dm_control

            environment = custom.load(domain, task, random=0)
        elif domain in MUSCLE_TASKS:
            from sb3_pwm.envs import muscle_humanoid  # waits for dm_control

            environment = muscle_humanoid.load(task, random=0)
        else:
            # lqr draws its springs when it is built: from a fixed seed, every copy of the task is the same task.
            environment = suite.load(domain, task, task_kwargs={"random": 0})
        environment.task.random.seed()  # from the operating system, until reset(seed=) says otherwise
        super().__init__(
            environment,
            action_repeat=action_repeat,
            render_mode=render_mode,
            width=width,
            height=height,
            camera_id=_CAMERAS.get(domain, 0) if camera_id is None else camera_id,
        )


def _flatten(observation: dict[str, Any]) -> NDArray[np.float32]:
    # axis=None flattens every entry, scalars too, in the order of the dict.
    return np.concatenate(tuple(observation.values()), axis=None, dtype=np.float32)
