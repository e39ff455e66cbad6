"""Extraction of one policy from a pretrained world model, and its result."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from tqdm import tqdm

from sb3_pwm.common.evaluation import Row, TimedEvaluation
from sb3_pwm.common.files import atomic_write
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.pwm.pwm import PWM
from sb3_pwm.tasks import env_id
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
        replay_critic_coef=0.0,
        bc_coef=0.0,
    ),
}
"""Named sets of arguments of :class:`~sb3_pwm.PWM`"""

EVALUATION_SEED = 1_000


@dataclasses.dataclass(frozen=True)
class ExtractionConfig:
    """
    What decides the outcome of an extraction, beside world model, data, task and seed.

    :param updates: Number of updates.
    :param eval_every: Number of updates between evaluations.
    :param eval_episodes: Number of episodes of an evaluation.
    :param online_steps: Number of environment steps to go on for afterwards.
    :param like: Task whose embedding a task starts from that the world model does not have; empty: none.
    """

    updates: int = 4_000
    eval_every: int = 1_000
    eval_episodes: int = 10
    online_steps: int = 0
    like: str = ""


def extract_policy(
    world_model: WorldModel,
    dataset: OfflineDataset,
    task: str,
    seed: int,
    config: ExtractionConfig,
    parameters: dict[str, Any],
    device: str = "auto",
    progress_bar: bool = True,
) -> tuple[PWM, dict[str, Any]]:
    """
    Extract a policy, evaluating it on the way.

    :param world_model: The pretrained world model.
    :param dataset: Data that has the task.
    :param task: Name of the task.
    :param seed: Seed of the extraction.
    :param config: Number of updates and evaluations.
    :param parameters: Further arguments of :class:`~sb3_pwm.PWM`.
    :param device: Device of the networks.
    :param progress_bar: Whether to show a progress bar.
    :return: The model, and its result: the mean and best return of the data, and the evaluations.
    :raises ValueError: If the world model or the data does not have the task, or an argument is wrong.
    """
    data = dataset.select([task])
    if config.like and task not in world_model.config.tasks:
        world_model.add_task(task, config.like)
    model = PWM(
        "MlpPolicy",
        gymnasium.make(env_id(task)),
        world_model=world_model,
        dataset=data,
        task=task,
        offline=True,
        seed=seed,
        device=device,
        **{"learning_rate": "lin_5e-4", **parameters},
    )
    eval_env = make_vec_env(env_id(task))
    bar = tqdm(total=config.updates, unit="update", disable=None if progress_bar else True, leave=False)
    bar.set_description(f"{task}, seed {seed}")

    def learn(timesteps: int) -> list[Row]:
        def show(row: Row) -> None:
            bar.update(row["timesteps"] - bar.n)
            bar.set_postfix({"return": f"{row['return']:.0f}"})

        evaluation = TimedEvaluation(
            eval_env, config.eval_every, config.eval_episodes, True, True, EVALUATION_SEED, on_evaluation=show
        )
        model.learn(timesteps, callback=evaluation, log_interval=10)
        return evaluation.rows

    rows, online = learn(config.updates), []
    if config.online_steps:
        model.offline = False
        online = learn(config.online_steps)
    bar.close()
    eval_env.close()
    returns = data.data[0].returns
    statistics = {"mean": float(np.mean(returns)), "best": float(np.max(returns)), "episodes": len(returns)}
    return model, {"task": task, "seed": seed, "data": statistics, "evaluations": rows, "online": online}


def write_result(model: PWM, result: dict[str, Any], folder: Path, name: str) -> None:
    """
    Write a policy and its result; both are complete or not there.

    :param model: The model.
    :param result: What :func:`extract_policy` returned, and whatever else describes it.
    :param folder: Folder of the task.
    :param name: Name of the files without their suffix.
    """
    model.save(folder / f"{name}.zip")
    with atomic_write(folder / f"{name}.json") as file:  # last: it says that the extraction is complete
        file.write(json.dumps(result, indent=1).encode())
