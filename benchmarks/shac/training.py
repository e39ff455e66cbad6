"""One run of SHAC, which writes its curve as the runs of PWM and SAC do."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import gymnasium
import torch as th
from curves.runs import Run, describe, make_writer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_pwm.envs.differentiable import SimulatorEnv
from shac.agent import Shac, ShacConfig


def train(run: Run, out: Path) -> None:
    """
    Train SHAC once and write the curve. Evaluations are in the Gymnasium environment, and the clocks stand still.

    :param run: The run. Its hyperparameters are fields of :class:`~shac.agent.ShacConfig`.
    :param out: Folder of the curves.
    :raises ValueError: If the environment is no simulator.
    """
    th.set_num_threads(1)
    env, fields = gymnasium.make(run.env), json.loads(run.hyperparams)
    if not isinstance(env.unwrapped, SimulatorEnv):
        raise ValueError(f"SHAC learns in differentiable simulators, such as Torch-hopper-hop, and {run.env} is none.")
    assert env.spec is not None
    assert env.spec.max_episode_steps is not None
    agent = Shac(env.unwrapped.simulator, run.steps, ShacConfig(**fields), env.spec.max_episode_steps, run.seed)
    eval_env = DummyVecEnv([lambda: Monitor(gymnasium.make(run.env))] * run.eval_episodes)
    path = run.csv_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "ShacConfig" + ("; overridden: " + ", ".join(sorted(fields)) if fields else "")
    networks = nn.ModuleList([agent.actor, agent.critic])
    description = describe(run, dataclasses.asdict(agent.config), source, networks)
    path.with_suffix(".json").write_text(json.dumps(description, indent=2) + "\n")
    write, seconds, cpu_seconds, next_evaluation, goes_on = make_writer(run, path), 0.0, 0.0, run.eval_freq, True
    while goes_on:
        wall, cpu = time.perf_counter(), time.process_time()
        metrics = agent.update()
        seconds += time.perf_counter() - wall
        cpu_seconds += time.process_time() - cpu
        if agent.n_steps < min(next_evaluation, run.steps):
            continue
        next_evaluation = (agent.n_steps // run.eval_freq + 1) * run.eval_freq
        eval_env.seed(run.seed + 10_000)
        mean, std = evaluate_policy(agent, eval_env, run.eval_episodes)  # type: ignore[arg-type]
        row = {"timesteps": agent.n_steps, "seconds": seconds, "cpu_seconds": cpu_seconds, "return": mean, "std": std}
        goes_on = write({**row, **metrics})
