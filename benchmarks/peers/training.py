"""Train a peer. The virtual environment of d3rlpy runs this module: ``python -m peers.training RUN_AS_JSON OUT``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import d3rlpy
import gymnasium
import numpy as np
import structlog
import torch as th
from d3rlpy.algos import BCConfig, IQLConfig, TD3PlusBCConfig
from d3rlpy.dataset import MDPDataset
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.optimizers import AdamFactory, CosineAnnealingLRFactory
from d3rlpy.preprocessing import ReturnBasedRewardScaler, StandardObservationScaler
from machine import processor
from numpy.typing import NDArray

from peers.data import best_episodes, load_task, to_arrays
from peers.evaluation import evaluate
from peers.runs import OWN_LENGTH, PeerRun, make_row, write_row
from sb3_pwm.common.actions import unscale_actions
from sb3_pwm.data.types import TaskData

EPOCH = 1_000
"""Number of updates after which d3rlpy forgets the losses that it averages for its progress bar"""


class Finished(Exception):
    """Raised by the callback to end the run: d3rlpy itself ends only after whole epochs."""


def make_algorithm(run: PeerRun) -> Any:
    """:return: The learner, with the hyperparameters of d3rlpy's reproductions and standardized observations."""
    scaler = StandardObservationScaler()
    if run.algorithm == "td3bc":
        config: Any = TD3PlusBCConfig(observation_scaler=scaler)
    elif run.algorithm == "iql":
        # The learning rate of the policy decays to 0 at the end of a run that ends after a number of updates.
        schedule = CosineAnnealingLRFactory(T_max=run.updates or OWN_LENGTH)
        config = IQLConfig(
            observation_scaler=scaler,
            actor_optim_factory=AdamFactory(lr_scheduler_factory=schedule),
            reward_scaler=ReturnBasedRewardScaler(multiplier=1000.0),
        )
    else:
        config = BCConfig(observation_scaler=scaler)
    return config.create(device=False)


class Evaluation:
    """
    Callback of d3rlpy that evaluates, and ends the run. The processor time of evaluations is not counted.

    :param run: The run.
    :param path: CSV file of the evaluations.
    """

    def __init__(self, run: PeerRun, path: Path):
        self.run, self.path = run, path
        env = gymnasium.make(run.env)
        self.action_space: Any = env.action_space
        env.close()
        self.cpu_seconds = 0.0
        self._since: float | None = None

    def __call__(self, algorithm: Any, _epoch: int, update: int) -> None:
        now = time.process_time()
        if self._since is not None:  # the clock starts after the first update, when the scalers have been fitted
            self.cpu_seconds += now - self._since
        ends = self.run.ends(update, self.cpu_seconds)
        if ends or update % self.run.eval_freq == 0:
            self._evaluate(algorithm, update)
        if ends:
            raise Finished
        self._since = time.process_time()

    def _evaluate(self, algorithm: Any, update: int) -> None:
        def predict(observations: NDArray[np.float32]) -> NDArray[Any]:
            return unscale_actions(self.action_space, algorithm.predict(observations))

        run = self.run
        returns = evaluate(predict, run.env)
        write_row(self.path, make_row(run.env, run.algorithm, run.limit, run.seed, update, self.cpu_seconds, returns))
        print(
            f"{run.name}: {update} updates, {self.cpu_seconds:.0f} s CPU, return {np.mean(returns):.1f} "
            f"+- {np.std(returns):.1f}",
            flush=True,
        )


def describe(run: PeerRun, data: TaskData, algorithm: Any) -> dict[str, Any]:
    """:return: What a reader needs to repeat the run, for the JSON file beside the evaluations."""
    versions = {}
    for package in ("sb3-pwm", "d3rlpy", "torch", "gymnasium", "mujoco", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "run": dataclasses.asdict(run),
        "data": {
            "episodes": len(data.lengths),
            "steps": int(data.lengths.sum()),
            "mean_return": float(data.returns.mean()),
            "best_return": float(data.returns.max()),
        },
        "hyperparameters": vars(algorithm.config),
        "cpu": processor(),
        "threads": 1,
        "versions": versions,
    }


def train(run: PeerRun, out: Path) -> None:
    """
    Train a peer, evaluate it, and write the results.

    :param run: The run.
    :param out: Folder of the results.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    th.set_num_threads(1)
    d3rlpy.seed(run.seed)
    data = load_task(run.data, run.task)
    if run.algorithm == "bc10":
        data = best_episodes(data, 0.1)
    algorithm = make_algorithm(run)
    path = run.csv_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # the rows of a run that was killed
    path.with_suffix(".json").write_text(json.dumps(describe(run, data, algorithm), indent=2, default=repr) + "\n")
    with contextlib.suppress(Finished):
        algorithm.fit(
            MDPDataset(**to_arrays(data)._asdict()),
            n_steps=EPOCH * 10**6,
            n_steps_per_epoch=EPOCH,
            logger_adapter=NoopAdapterFactory(),
            show_progress=False,
            callback=Evaluation(run, path),
        )


if __name__ == "__main__":
    train(PeerRun.from_json(sys.argv[1]), Path(sys.argv[2]))
