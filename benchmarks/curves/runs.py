"""One training run through rl-zoo3, which writes its learning curve to a CSV file."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium
import pandas as pd
import rl_zoo3
import torch as th
import yaml
from machine import processor
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

import sb3_pwm.zoo  # noqa: F401 (adds PWM to rl-zoo3, and registers the environments)
from curves.meaning import same_meaning
from sb3_pwm.common.evaluation import Row, TimedEvaluation

ROOT = Path(__file__).resolve().parents[2]
MODEL_FREE = ("sac", "tqc", "crossq")
"""Algorithms of rl-zoo3 that PWM is compared with"""
ALGOS = ("pwm", *MODEL_FREE, "shac")
SEEDS = (0, 1, 2)
EVALUATION_SEED = 10_000
"""Seed of every evaluation of every run: all have the same start states, which no training run has."""

TRAIN_METRICS = (
    "imagined_return",
    "value",
    "actor_loss",
    "critic_loss",
    "world_model_loss",
    "dynamics_loss",
    "reward_loss",
    "termination_loss",
    "actor_grad_norm",
    "n_updates",
)
"""Metrics that a curve keeps. An algorithm without one of them leaves the column empty."""
COLUMNS = (
    *("algo", "env", "seed", "tag", "agent_steps", "env_steps"),
    *("train_seconds", "cpu_seconds", "mean_return", "std_return"),
    *TRAIN_METRICS,
)

# SB3's default of 100 random steps is a fifth of a DMControl episode. These are two episodes.
MODEL_FREE_DMCONTROL = {"n_timesteps": 1_000_000, "policy": "MlpPolicy", "learning_starts": 1000}


@dataclasses.dataclass(frozen=True)
class Task:
    """
    One row of the comparison.

    :param env: Environment id.
    :param steps: Number of agent steps at which scores are compared.
    :param eval_freq: Number of agent steps between evaluations.
    :param target: Score to reach. None: SAC's mean score at ``steps``.
    :param action_repeat: Number of environment steps per agent step.
    """

    env: str
    steps: int
    eval_freq: int
    target: float | None
    action_repeat: int = 1


TASKS = (
    Task("Pendulum-v1", 3_000, 500, -200.0),
    Task("Cartpole-swingup", 25_000, 2_500, 750.0, 2),
    Task("Walker-walk", 30_000, 2_500, 900.0, 2),
    Task("Cheetah-run", 50_000, 5_000, 520.0, 2),
    Task("Hopper-v5", 50_000, 5_000, None),
)
# Tasks with images, which the overview leaves out
IMAGE_TASKS = (Task("Pendulum-pixels", 5_000, 500, -200.0), Task("Pendulum-dict", 3_000, 500, -200.0))
TASK_OF = {task.env: task for task in (*TASKS, *IMAGE_TASKS)}


@dataclasses.dataclass(frozen=True)
class Run:
    """
    One training run.

    :param algo: One of :data:`ALGOS`.
    :param env: Environment id.
    :param seed: Seed of the environment and the learner. Evaluations have :data:`EVALUATION_SEED`.
    :param steps: Number of agent steps at which the run ends.
    :param eval_freq: Number of agent steps between evaluations.
    :param eval_episodes: Number of episodes of an evaluation.
    :param hyperparams: Overrides of the hyperparameters as JSON, in the zoo's notation.
    :param tag: Name of the variant, part of the file name.
    :param stop_at: Score that ends the run once an evaluation has reached it.
    :param stop_after: Number of agent steps before which ``stop_at`` does not end the run.
    """

    algo: str
    env: str
    seed: int
    steps: int
    eval_freq: int
    eval_episodes: int = 10
    hyperparams: str = "{}"
    tag: str = ""
    stop_at: float | None = None
    stop_after: int = 0

    @property
    def name(self) -> str:
        """File name without its suffix."""
        return f"{self.algo}{'-' + self.tag if self.tag else ''}-seed{self.seed}"

    def csv_path(self, out: Path) -> Path:
        """:param out: Folder of the curves. :return: File of the curve."""
        return out / self.env / f"{self.name}.csv"

    def ends(self, agent_steps: int, best: float) -> bool:
        """
        :param agent_steps: Number of agent steps so far.
        :param best: Best evaluation so far.
        :return: Whether the run is over.
        """
        if agent_steps >= self.steps:
            return True
        return self.stop_at is not None and best >= self.stop_at and agent_steps >= self.stop_after

    def current(self, description: dict[str, Any]) -> bool:
        """
        :param description: Description of the curve; empty if there is none.
        :return: Whether the run had the hyperparameters that hyperparams/pwm.yml has now.
        """
        if self.algo != "pwm" or not description:
            return True
        now = {**hyperparams_of(self.algo, self.env)[0], **json.loads(self.hyperparams)}
        return same_meaning(description["hyperparameters"], now)

    def arguments(self) -> list[str]:
        """:return: The command line of the ``run`` subcommand."""
        arguments = ["--algo", self.algo, "--env", self.env, "--seed", str(self.seed), "--steps", str(self.steps)]
        arguments += ["--eval-freq", str(self.eval_freq), "--eval-episodes", str(self.eval_episodes)]
        if json.loads(self.hyperparams):
            arguments += ["--hyperparams", self.hyperparams]
        if self.tag:
            arguments += ["--tag", self.tag]
        if self.stop_at is not None:
            arguments += [f"--stop-at={self.stop_at}", "--stop-after", str(self.stop_after)]
        return arguments


def action_repeat(env_id: str) -> int:
    """:param env_id: Environment id. :return: Environment steps per agent step: 2 for the package's suites, else 1."""
    spec = gymnasium.spec(env_id)
    if "action_repeat" in spec.kwargs:
        return int(spec.kwargs["action_repeat"])
    suites = ("sb3_pwm.envs.dm_control", "sb3_pwm.envs.meta_world")
    return 2 if str(spec.entry_point).startswith(suites) else 1


def hyperparams_of(algo: str, env_id: str) -> tuple[dict[str, Any], str]:
    """
    Look up the hyperparameters of an environment in the zoo's notation.

    PWM has its entry in hyperparams/pwm.yml, else ``default``. The others have their entry in rl-zoo3's file, else the
    entry of another version of the same environment (Hopper-v4 for Hopper-v5), else SB3's defaults.

    :param algo: ``pwm``, or one of :data:`MODEL_FREE`.
    :param env_id: Environment id.
    :return: The hyperparameters, and where they come from in words.
    """
    path = (ROOT if algo == "pwm" else Path(rl_zoo3.__file__).parent) / "hyperparams" / f"{algo}.yml"
    entries: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())
    source = f"hyperparams/{algo}.yml" if algo == "pwm" else f"rl-zoo3's {algo}.yml"
    if env_id in entries:
        return dict(entries[env_id]), f"{source}, {env_id}"
    base = re.sub(r"-v\d+$", "", env_id)
    versions = [key for key in entries if re.fullmatch(re.escape(base) + r"-v\d+", key)]
    if versions and base != env_id:
        return dict(entries[versions[-1]]), f"{source}, {versions[-1]}"
    if algo == "pwm":
        return dict(entries["default"]), f"{source}, default"
    defaults = f"SB3's {algo.upper()} defaults"
    if env_id in {task.env for task in IMAGE_TASKS}:
        of_pwm, _ = hyperparams_of("pwm", env_id)
        shared = {name: of_pwm[name] for name in ("policy", "learning_starts", "buffer_size")}
        return {"n_timesteps": 1_000_000, **shared}, f"{defaults}, with {', '.join(shared)} of PWM"
    if action_repeat(env_id) > 1:
        starts = MODEL_FREE_DMCONTROL["learning_starts"]
        return dict(MODEL_FREE_DMCONTROL), f"{defaults}, learning_starts {starts}"
    return {"n_timesteps": 1_000_000, "policy": "MlpPolicy"}, defaults


def make_manager(run: Run, hyperparams: dict[str, Any], folder: Path) -> ExperimentManager:
    """
    :param run: The run.
    :param hyperparams: Hyperparameters in the zoo's notation.
    :param folder: Folder of everything that rl-zoo3 writes.
    :return: rl-zoo3's manager of the run.
    """
    config = folder / f"{run.algo}.yml"
    config.write_text(yaml.safe_dump({run.env: hyperparams}))
    return ExperimentManager(
        argparse.Namespace(algo=run.algo, env=run.env, seed=run.seed),
        run.algo,
        run.env,
        str(folder / "logs"),
        n_timesteps=run.steps,
        eval_freq=-1,
        seed=run.seed,
        verbose=0,
        device="cpu",
        config=str(config),
    )


def make_evaluation_env(manager: ExperimentManager, episodes: int) -> VecEnv:
    """:return: Environments wrapped as those of training, one for each episode."""
    return manager.create_envs(episodes, eval_env=True)


def make_writer(run: Run, path: Path) -> Callable[[Row], bool]:
    """
    :param run: The run.
    :param path: CSV file, which gets a header now and a line at every evaluation.
    :return: Function that writes the results of an evaluation, and returns whether the run goes on.
    """
    repeat, best = action_repeat(run.env), float("-inf")
    pd.DataFrame(columns=COLUMNS).to_csv(path, index=False)

    def write(row: Row) -> bool:
        nonlocal best
        best = max(best, row["return"])
        line: dict[str, Any] = {"algo": run.algo, "env": run.env, "seed": run.seed, "tag": run.tag}
        line |= {"agent_steps": row["timesteps"], "env_steps": row["timesteps"] * repeat}
        line |= {"train_seconds": f"{row['seconds']:.2f}", "cpu_seconds": f"{row['cpu_seconds']:.2f}"}
        line |= {"mean_return": f"{row['return']:.3f}", "std_return": f"{row['std']:.3f}"}
        line |= {name: f"{row[name]:.6g}" for name in TRAIN_METRICS if name in row}
        pd.DataFrame([line], columns=COLUMNS).to_csv(path, mode="a", header=False, index=False)
        imagined = f", imagined return {row['imagined_return']:.1f}" if "imagined_return" in row else ""
        print(
            f"{run.algo}{' ' + run.tag if run.tag else ''} {run.env} seed {run.seed}: {row['timesteps']}/{run.steps} "
            f"steps, return {row['return']:.1f} +- {row['std']:.1f}, {row['seconds']:.0f} s training "
            f"({row['cpu_seconds']:.0f} s CPU){imagined}",
            flush=True,
        )
        return not run.ends(row["timesteps"], best)

    return write


def make_callback(run: Run, eval_env: VecEnv, path: Path) -> TimedEvaluation:
    """
    :param run: The run.
    :param eval_env: Environments of the evaluations.
    :param path: CSV file, see :func:`make_writer`.
    :return: The callback that evaluates the deterministic policy and writes the curve.
    """
    return TimedEvaluation(
        eval_env,
        run.eval_freq,
        run.eval_episodes,
        at_end=True,
        seed=EVALUATION_SEED,
        metrics=TRAIN_METRICS,
        on_evaluation=make_writer(run, path),
    )


def describe(run: Run, hyperparams: dict[str, Any], source: str, networks: nn.Module) -> dict[str, Any]:
    """:return: What a reader needs to repeat the run, for the JSON file beside the curve."""
    versions = {}
    for package in ("sb3-pwm", "stable-baselines3", "rl-zoo3", "torch", "gymnasium", "mujoco", "dm-control"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "command": "python benchmarks/learning_curves.py run " + " ".join(run.arguments()),
        "hyperparameters_from": source,
        "hyperparameters": hyperparams,
        "parameters": sum(parameter.numel() for parameter in networks.parameters()),
        "cpu": processor(),
        "threads": 1,
        "evaluation_seed": EVALUATION_SEED,
        "python": platform.python_version(),
        "versions": versions,
    }


def write_description(path: Path, description: dict[str, Any]) -> None:
    """
    :param path: CSV file of a run. Its description is beside it.
    :param description: The description.
    """
    path.with_suffix(".json").write_text(json.dumps(description, indent=2) + "\n")


def read_description(path: Path) -> dict[str, Any]:
    """:param path: CSV file of a run. :return: Its description; empty if there is none."""
    file = path.with_suffix(".json")
    return dict(json.loads(file.read_text())) if file.exists() else {}


def train(run: Run, out: Path) -> None:
    """
    Train once and write the curve. A run that diverged says so in its description, and keeps its evaluations until
    then.

    :param run: The run.
    :param out: Folder of the curves.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    th.set_num_threads(1)
    path = run.csv_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    hyperparams, source = hyperparams_of(run.algo, run.env)
    overrides = json.loads(run.hyperparams)
    hyperparams.update(overrides)
    if overrides:
        source += "; overridden: " + ", ".join(sorted(overrides))
    with tempfile.TemporaryDirectory() as folder:
        manager = make_manager(run, hyperparams, Path(folder))
        with contextlib.redirect_stdout(sys.stderr):  # the zoo's own messages; stdout is for the progress
            experiment = manager.setup_experiment()
            assert experiment is not None
            model, _ = experiment
            eval_env = make_evaluation_env(manager, run.eval_episodes)
        description = describe(run, hyperparams, source, model.policy)
        write_description(path, description)
        print(f"{run.algo} {run.env} seed {run.seed}: hyperparameters from {source}", flush=True)
        try:
            model.learn(manager.n_timesteps, callback=[*manager.callbacks, make_callback(run, eval_env, path)])
        except ValueError as error:  # what PWM raises for a loss or gradient that is not finite
            if "finite" not in str(error):
                raise
            write_description(path, {**description, "diverged": f"after {model.num_timesteps} steps: {error}"})
            print(f"{run.algo} {run.env} seed {run.seed} DIVERGED after {model.num_timesteps} steps: {error}")
        finally:
            eval_env.close()
            if model.env is not None:
                model.env.close()
