"""A callback that evaluates a policy while it learns, and does not count the time that the evaluations take."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

Row = dict[str, Any]
"""Results of one evaluation, see :class:`TimedEvaluation`"""


class TimedEvaluation(BaseCallback):
    """
    Evaluate the deterministic policy at fixed timesteps. The time that evaluations take is not counted.

    The results of an evaluation are a dictionary with these keys:

    - ``timesteps``: number of timesteps until the evaluation.
    - ``seconds``, ``cpu_seconds``: wall time and processor time of learning until the evaluation.
    - ``return``, ``std``: mean and standard deviation of the episodes' returns.
    - ``success``: share of the episodes that ended in success, if the environment reports ``is_success``.
    - The last value of each metric in ``metrics``, by its name without ``train/``.

    :param eval_env: Environments of the evaluations. They must be wrapped in ``VecNormalize`` if the model's
        environments are, and get the same statistics.
    :param eval_freq: Number of timesteps between two evaluations.
    :param n_eval_episodes: Number of episodes in an evaluation.
    :param at_start: Whether to evaluate before the first timestep too.
    :param at_end: Whether to evaluate after the last update too, if the last evaluation was before that update.
    :param seed: Seed of the environments at the start of every evaluation, so that all evaluations have the same start
        states. None: the environments are not seeded.
    :param metrics: Names of the ``train/*`` metrics to keep, without ``train/``.
    :param on_evaluation: Function that is called with the results of each evaluation. Learning stops if it returns
        False.
    """

    def __init__(
        self,
        eval_env: VecEnv,
        eval_freq: int,
        n_eval_episodes: int = 10,
        at_start: bool = False,
        at_end: bool = False,
        seed: int | None = None,
        metrics: tuple[str, ...] = ("imagined_return",),
        on_evaluation: Callable[[Row], bool | None] = lambda row: True,
    ):
        super().__init__()
        self.eval_env = eval_env
        self.eval_freq = eval_freq
        self.n_eval_episodes = n_eval_episodes
        self.at_start = at_start
        self.at_end = at_end
        self.seed = seed
        self.metrics = metrics
        self.on_evaluation = on_evaluation
        self.rows: list[Row] = []
        """Results of the evaluations so far"""
        self.seconds = self.cpu_seconds = 0.0
        self._latest: dict[str, float] = {}
        self._next = eval_freq

    def _start_clocks(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def _stop_clocks(self) -> None:
        self.seconds += time.perf_counter() - self._wall
        self.cpu_seconds += time.process_time() - self._cpu

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps + self.eval_freq
        if self.at_start:
            self._evaluate()
        self._start_clocks()

    def _on_step(self) -> bool:
        # The logger drops its values when it writes them, so the last values are kept here.
        logged = self.logger.name_to_value
        self._latest.update((name, logged[f"train/{name}"]) for name in self.metrics if f"train/{name}" in logged)
        if self.num_timesteps < self._next:
            return True
        self._next += self.eval_freq
        self._stop_clocks()
        continue_training = self._evaluate()
        self._start_clocks()
        return continue_training

    def _on_training_end(self) -> None:
        self._stop_clocks()
        if self.at_end and (not self.rows or self.rows[-1]["timesteps"] < self.num_timesteps):
            self._evaluate()

    def _evaluate(self) -> bool:
        normalize = self.model.get_vec_normalize_env()
        if isinstance(normalize, VecNormalize):
            sync_envs_normalization(normalize, self.eval_env)
        if self.seed is not None:
            self.eval_env.seed(self.seed)
        successes: list[float] = []

        def collect(variables: dict[str, Any], _: dict[str, Any]) -> None:
            if variables["done"] and "is_success" in variables["info"]:
                successes.append(float(variables["info"]["is_success"]))

        returns, _ = evaluate_policy(
            self.model,  # type: ignore[arg-type]
            self.eval_env,
            self.n_eval_episodes,
            callback=collect,
            return_episode_rewards=True,
        )
        row: Row = {
            "timesteps": self.num_timesteps,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "return": float(np.mean(returns)),
            "std": float(np.std(returns)),
        }
        if successes:
            row["success"] = float(np.mean(successes))
        row.update(self._latest)
        self.rows.append(row)
        return self.on_evaluation(row) is not False
