"""Registration of the package's environments in Gymnasium."""

from __future__ import annotations

from typing import Any

import gymnasium

from sb3_pwm.tasks import (
    CUSTOM_TASKS,
    DM_CONTROL_TASKS,
    IMAGE_TASKS,
    META_WORLD_TASKS,
    MUSCLE_TASKS,
    MYOSUITE_TASKS,
    SIMULATED_TASKS,
    env_id,
    suite_env_id,
)

DM_CONTROL_EPISODE_STEPS = 500
"""Number of agent steps in an episode of DMControl: 1,000 control steps, two per agent step"""
META_WORLD_EPISODE_STEPS = 100
"""Number of agent steps in an episode of Meta-World, as in TD-MPC2: 200 control steps, two per agent step"""
MYOSUITE_EPISODE_STEPS = 100
"""Number of steps in an episode of MyoSuite, as in TD-MPC2. MyoSuite's own limits are 50 to 200."""
SIMULATED_EPISODE_STEPS = 500
"""Number of steps in an episode of the simulators in torch: 10 seconds"""
PENDULUM_EPISODE_STEPS = 200
"""Number of steps in an episode of Pendulum-v1"""


def register_envs() -> None:
    """
    Register all environments of the package in Gymnasium.

    Ids that are registered already are not changed, so that the function can be called several times.
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
    for task in MYOSUITE_TASKS:
        entry_point = "sb3_pwm.envs.myo_suite:MyoSuiteEnv"
        _register(env_id(f"myo-{task}"), entry_point, MYOSUITE_EPISODE_STEPS, {"task": task})
    for task in SIMULATED_TASKS:
        entry_point = "sb3_pwm.envs.differentiable.environment:SimulatorEnv"
        _register(env_id(task), entry_point, SIMULATED_EPISODE_STEPS, {"task": task})
    for name, velocity in IMAGE_TASKS.items():
        entry_point = "sb3_pwm.envs.pendulum_images:PendulumImages"
        _register(name, entry_point, PENDULUM_EPISODE_STEPS, {"velocity": velocity})


def _register(name: str, entry_point: str, episode_steps: int, kwargs: dict[str, Any]) -> None:
    """Register an environment, if its id is not registered."""
    if name not in gymnasium.registry:
        # The entry point is a string, so that the spec can be pickled, and a subprocess imports the simulator itself.
        gymnasium.register(id=name, entry_point=entry_point, max_episode_steps=episode_steps, kwargs=kwargs)
