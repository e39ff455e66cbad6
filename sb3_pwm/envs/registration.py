"""Registers the package's environments with Gymnasium."""

from __future__ import annotations

from typing import Any

import gymnasium

from sb3_pwm.tasks import (
    CUSTOM_TASKS,
    DM_CONTROL_TASKS,
    IMAGE_TASKS,
    META_WORLD_TASKS,
    MUSCLE_TASKS,
    env_id,
    suite_env_id,
)

# A DMControl episode has 1,000 control steps, two of them to an agent step.
DM_CONTROL_EPISODE_STEPS = 500
# A Meta-World episode of TD-MPC2 has 200 control steps, two of them to an agent step.
META_WORLD_EPISODE_STEPS = 100
# An episode of Gymnasium's Pendulum-v1
PENDULUM_EPISODE_STEPS = 200


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
