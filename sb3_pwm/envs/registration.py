"""Which environment ids exist, and what each of them builds.

The names are written down here rather than asked of the suites: importing dm_control takes most of a second and
opens a graphics library, which no program should pay for that merely imports the package.
"""

from __future__ import annotations

from typing import Any

import gymnasium

# A DMControl episode: 1,000 control steps, two of them to an agent step.
DM_CONTROL_EPISODE_STEPS = 500

DM_CONTROL_TASKS: dict[str, tuple[str, ...]] = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": ("balance", "balance_sparse", "swingup", "swingup_sparse", "two_poles", "three_poles"),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}
"""Every task of dm_control's suite, by domain, in dm_control's own spelling."""

CUSTOM_TASKS: dict[str, tuple[str, ...]] = {
    "walker": ("walk_backwards", "run_backwards"),
    "cheetah": ("run_backwards", "run_front", "run_back", "jump"),
    "hopper": ("hop_backwards",),
    "reacher": ("three_easy", "three_hard"),
    "ball_in_cup": ("spin",),
    "pendulum": ("spin",),
}
"""The tasks that MT30 adds to dm_control's domains, see `sb3_pwm.envs.custom`."""

MUSCLE_TASKS: dict[str, tuple[str, ...]] = {"muscle_humanoid": ("stand", "walk", "run")}
"""The tasks of the humanoid with 152 muscles, see `sb3_pwm.envs.muscle_humanoid`."""

# A Meta-World episode of TD-MPC2: 200 control steps, two of them to an agent step.
META_WORLD_EPISODE_STEPS = 100

META_WORLD_TASKS: tuple[str, ...] = (
    *("assembly", "basketball", "button-press-topdown", "button-press-topdown-wall", "button-press"),
    *("button-press-wall", "coffee-button", "coffee-pull", "coffee-push", "dial-turn"),
    *("disassemble", "door-open", "door-close", "drawer-close", "drawer-open"),
    *("faucet-open", "faucet-close", "hammer", "handle-press-side", "handle-press"),
    *("handle-pull-side", "handle-pull", "lever-pull", "peg-insert-side", "peg-unplug-side"),
    *("pick-out-of-hole", "pick-place", "pick-place-wall", "plate-slide", "plate-slide-side"),
    *("plate-slide-back", "plate-slide-back-side", "push-back", "push", "push-wall"),
    *("reach", "reach-wall", "shelf-place", "soccer", "stick-push"),
    *("stick-pull", "sweep-into", "sweep", "window-open", "window-close"),
    *("bin-picking", "box-close", "door-lock", "door-unlock", "hand-insert"),
)
"""Meta-World's 50 tasks, in the order in which the TD-MPC2 release counts them."""

# An episode of Gymnasium's Pendulum-v1
PENDULUM_EPISODE_STEPS = 200

IMAGE_TASKS: dict[str, bool] = {"Pendulum-pixels": False, "Pendulum-dict": True}
"""Pendulum-v1 seen as pictures, see `sb3_pwm.envs.pendulum_images`; True: with the velocity, as a ``Dict``."""

# The two domains that TD-MPC2, its data sets and its published curves spell differently from dm_control, and our own.
_USUAL_DOMAIN_NAMES = {"ball_in_cup": "cup", "point_mass": "pointmass", "muscle_humanoid": "muscle-humanoid"}


def env_id(task: str) -> str:
    """Returns the environment id of a task.

    :param task: The task as the TD-MPC2 and PWM releases spell it, e.g. ``"cup-catch"``.
    :return: The id, e.g. ``"Cup-catch"``.
    """
    return f"{task[0].upper()}{task[1:]}"


def suite_env_id(domain: str, task: str) -> str:
    """Returns the environment id of a task of dm_control's suite, or of one that is added to it.

    :param domain: dm_control's name of the domain, e.g. ``"ball_in_cup"``.
    :param task: dm_control's name of the task, e.g. ``"turn_easy"``.
    :return: The id, e.g. ``"Cup-catch"`` or ``"Finger-turn-easy"``.
    """
    name = _USUAL_DOMAIN_NAMES.get(domain, domain)
    return env_id(f"{name}-{task.replace('_', '-')}")


def register_envs() -> None:
    """Registers every environment of the package with Gymnasium.

    It may be called any number of times. An id that is already registered is left as it is, whoever registered it.
    """
    for domain, tasks in (*DM_CONTROL_TASKS.items(), *CUSTOM_TASKS.items(), *MUSCLE_TASKS.items()):
        for task in tasks:
            _register(
                suite_env_id(domain, task),
                "sb3_pwm.envs.dm_control:SuiteEnv",
                DM_CONTROL_EPISODE_STEPS,
                {"domain": domain, "task": task},
            )
    for task in META_WORLD_TASKS:
        _register(
            env_id(f"mw-{task}"),
            "sb3_pwm.envs.meta_world:MetaWorldEnv",
            META_WORLD_EPISODE_STEPS,
            {"task": task},
        )
    for name, velocity in IMAGE_TASKS.items():
        entry_point = "sb3_pwm.envs.pendulum_images:PendulumImages"
        _register(name, entry_point, PENDULUM_EPISODE_STEPS, {"velocity": velocity})


def _register(name: str, entry_point: str, episode_steps: int, kwargs: dict[str, Any]) -> None:
    if name not in gymnasium.registry:
        # The entry point as a string, so that the spec pickles and a subprocess imports the suite for itself.
        gymnasium.register(id=name, entry_point=entry_point, max_episode_steps=episode_steps, kwargs=kwargs)
