"""Extraction of one policy from a pretrained world model."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import set_random_seed

from sb3_pwm.common.checks import check_number
from sb3_pwm.common.evaluation import Row, TimedEvaluation
from sb3_pwm.common.files import atomic_write
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.environments import find_task, flat_env, make_env, stored_name
from sb3_pwm.pwm.pwm import PWM
from sb3_pwm.world_model.model import WorldModel

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    # PWM table 3, but for its batch size of 512
    "paper": dict(
        horizon=16,
        batch_size=256,
        critic_learning_rate=5e-4,
        n_critic_epochs=8,
        n_critic_minibatches=4,
        tau=1.0,
        ent_coef=0.0,
        imagined_critic_coef=1.0,
        replay_critic_coef=0.0,
        bc_coef=0.0,
        discounted_fraction=0.0,
    ),
}
"""Named sets of arguments of :class:`~sb3_pwm.PWM`"""

EVALUATION_SEED = 1_000


@dataclasses.dataclass(frozen=True)
class ExtractionConfig:
    """
    Configuration of an extraction.

    :param updates: Number of updates.
    :param eval_every: Number of updates between two evaluations.
    :param eval_episodes: Number of episodes of an evaluation.
    :param online_steps: Number of environment steps to learn on for afterwards. 0: none.
    :param like: Task whose embedding a task starts from if the world model lacks the task. Default: such a task
        fails.
    :raises ValueError: If a value is out of range. The message names it.
    """

    updates: int = 4_000
    eval_every: int = 1_000
    eval_episodes: int = 10
    online_steps: int = 0
    like: str = ""

    def __post_init__(self) -> None:
        for name in ("updates", "eval_every", "eval_episodes"):
            check_number(name, getattr(self, name), 1, integer=True)
        check_number("online_steps", self.online_steps, 0, integer=True)


def extract_policy(
    world_model: WorldModel,
    dataset: OfflineDataset,
    task: str,
    seed: int,
    config: ExtractionConfig,
    parameters: dict[str, Any],
    device: str = "auto",
    on_progress: Callable[[int, float], None] = lambda timesteps, last_return: None,
) -> tuple[PWM, dict[str, Any]]:
    """
    Extract a policy, and evaluate it before, between and after the updates.

    :param world_model: The pretrained world model. If it lacks the task and ``config.like`` is given, the task is added
        to it.
    :param dataset: Data set with the task.
    :param task: Name of the task, or an id that is registered in Gymnasium, see
        :func:`~sb3_pwm.data.environments.find_task`.
    :param seed: Seed of the extraction.
    :param config: Number of updates and evaluations.
    :param parameters: Further arguments of :class:`~sb3_pwm.PWM`.
    :param device: Device of the networks. ``"auto"``: a GPU if there is one.
    :param on_progress: Function that is called after each update and environment step with their number so far, and
        with the return of the last evaluation.
    :return: The model, and the result: a dictionary with the ``task``, the ``seed``, the ``data`` (number of episodes,
        mean and best return), the ``evaluations`` and the evaluations of the steps ``online``, see
        :class:`~sb3_pwm.common.evaluation.TimedEvaluation`.
    :raises ValueError: If the world model or the data set lacks the task, there is no environment of it, or an argument
        is wrong.
    """
    set_random_seed(seed)  # PWM may add a termination head to the world model before it sets the seed
    task, env_id = find_task(task)
    name = stored_name(task, dataset.tasks)
    data = dataset.select([name])
    if config.like and name not in world_model.config.tasks:
        world_model.add_task(name, config.like)
    model = PWM(
        "MlpPolicy",
        flat_env(make_env(env_id)),
        world_model=world_model,
        dataset=data,
        task=name,
        offline=True,
        seed=seed,
        device=device,
        **parameters,
    )
    eval_env = make_vec_env(lambda: flat_env(make_env(env_id)))

    def learn(timesteps: int, before: int = 0) -> list[Row]:
        evaluation = TimedEvaluation(eval_env, config.eval_every, config.eval_episodes, True, True, EVALUATION_SEED)
        progress = _Progress(lambda done: on_progress(before + done, evaluation.rows[-1]["return"]))
        model.learn(timesteps, callback=[progress, evaluation], log_interval=10)
        return evaluation.rows

    evaluations, online = learn(config.updates), []
    if config.online_steps:
        model.offline = False
        online = learn(config.online_steps, config.updates)
    eval_env.close()
    returns = data.data[0].returns
    statistics = {"mean": float(np.mean(returns)), "best": float(np.max(returns)), "episodes": len(returns)}
    return model, {"task": task, "seed": seed, "data": statistics, "evaluations": evaluations, "online": online}


class _Progress(BaseCallback):
    """Call a function with the number of timesteps."""

    def __init__(self, on_progress: Callable[[int], None]):
        super().__init__()
        self.on_progress = on_progress

    def _on_step(self) -> bool:
        self.on_progress(self.num_timesteps)
        return True


def write_result(model: PWM, result: dict[str, Any], file: Path) -> None:
    """
    Write a result, and the model beside it (``*.zip``).

    :param model: The model.
    :param result: Result of :func:`extract_policy`. Further keys are stored too.
    :param file: File of the result, ``*.json``.
    """
    model.save(file.with_suffix(".zip"))
    # The result is written last: if it is there, the model is complete.
    with atomic_write(file) as stream:
        stream.write(json.dumps(result, indent=1).encode())
