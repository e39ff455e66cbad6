"""Evaluation of a policy while it learns, with clocks that stand still meanwhile."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

Row = dict[str, Any]
"""One evaluation, see :class:`TimedEvaluation`"""


class TimedEvaluation(BaseCallback):
    """
    Evaluate the deterministic policy at fixed timesteps. The time that evaluations take is not counted.

    Each evaluation is a dictionary: ``timesteps``; ``seconds`` and ``cpu_seconds`` of learning until then; the mean
    ``return`` of the episodes and its standard deviation ``std``; ``success``, the share of episodes that ended in
    success, if the environment tells; and the last ``train/*`` metrics by their names without the prefix.

    :param eval_env: Environments of the evaluations. If the model's are normalized, theirs get the same statistics.
    :param eval_freq: Number of timesteps between evaluations.
    :param n_eval_episodes: Number of episodes of an evaluation.
    :param at_start: Whether to evaluate before the first timestep too.
    :param at_end: Whether to evaluate after the last update too, if the last evaluation was before it.
    :param seed: Seed of the environments in every evaluation, so that all have the same starts; None: seeds go on.
    :param metrics: Names of the ``train/*`` metrics to keep.
    :param on_evaluation: Function that is called with each evaluation. Learning stops if it returns False.
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
        """The evaluations so far"""
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
        # The logger forgets its values when they are written: the last ones are kept here.
        logged = self.logger.name_to_value
        self._latest.update((name, logged[f"train/{name}"]) for name in self.metrics if f"train/{name}" in logged)
        if self.num_timesteps < self._next:
            return True
        self._next += self.eval_freq
        self._stop_clocks()
        goes_on = self._evaluate()
        self._start_clocks()
        return goes_on

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
