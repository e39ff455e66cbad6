"""
Extract a policy for each of several tasks from one pretrained world model, and set its return beside the data's.

::

    python benchmarks/extraction.py run --world-model wm.safetensors --dataset data/mt80 \
        --tasks walker-walk cheetah-run mw-reach --seeds 0 1 2 --updates 4000 --out extraction
    python benchmarks/extraction.py table --out extraction
    python benchmarks/extraction.py plot --out extraction --tag default

A run's result is one JSON file with its settings and evaluations; runs that are there are not made again. The settings
are PWM's own, with an actor's learning rate that decays linearly; ``--settings paper`` takes the paper's. A task that
the world model has never seen is added to it with ``--like``, and wants ``--params "{'world_model_updates': 1}"``.
"""

import argparse
import ast
import json
import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import LinearSchedule

from sb3_pwm import PWM, OfflineDataset, WorldModel
from sb3_pwm.common.files import atomic_write
from sb3_pwm.envs import register_envs
from sb3_pwm.tasks import env_id

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    # PWM table 3, but for the batch of 512 and the entropy bonus
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


class Evaluations(BaseCallback):
    """Evaluates every so many updates; the time that takes does not count."""

    def __init__(self, env: gymnasium.Env[Any, Any], every: int, n_episodes: int):
        super().__init__()
        self.eval_env, self.every, self.n_episodes = env, every, n_episodes
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        self.last = time.perf_counter()

    def _on_step(self) -> bool:
        # A timestep's update is made after it: at its beginning num_timesteps - 1 are done.
        if self.n_calls % self.every == 1 or self.n_calls == 1:
            self.evaluate(self.num_timesteps - 1)
        return True

    def _on_training_end(self) -> None:
        self.evaluate(self.num_timesteps)

    def evaluate(self, updates: int) -> None:
        """:param updates: Number of updates made so far."""
        self.seconds += time.perf_counter() - self.last
        self.eval_env.reset(seed=1_000)
        successes: list[float] = []

        def collect(variables: dict[str, Any], _: dict[str, Any]) -> None:
            if variables["done"] and "is_success" in variables["info"]:
                successes.append(float(variables["info"]["is_success"]))

        returns, _ = evaluate_policy(
            self.model,
            self.eval_env,
            self.n_episodes,
            callback=collect,
            return_episode_rewards=True,  # type: ignore[arg-type]
        )
        row = {"updates": updates, "seconds": self.seconds, "return": float(np.mean(returns))}
        if successes:
            row["success"] = float(np.mean(successes))
        row["imagined_return"] = float(self.model.logger.name_to_value.get("train/imagined_return", np.nan))
        self.rows.append(row)
        print({name: round(value, 2) for name, value in row.items()}, flush=True)
        self.last = time.perf_counter()


def run(arguments: argparse.Namespace, task: str, seed: int) -> None:
    """Extract a policy, unless that has been done."""
    tag = arguments.tag or arguments.settings
    out = arguments.out / task / f"{tag}-seed{seed}.json"
    if out.is_file():
        return
    parameters = {**SETTINGS[arguments.settings], **ast.literal_eval(arguments.params)}
    data = OfflineDataset.load(arguments.dataset).select([task])
    env = Monitor(gymnasium.make(env_id(task)))
    world_model = WorldModel.load(arguments.world_model)
    if arguments.like is not None and task not in world_model.config.tasks:
        world_model.add_task(task, arguments.like)
    model = PWM(
        "MlpPolicy",
        env,
        learning_rate=LinearSchedule(5e-4, 0.0, 1.0),
        world_model=world_model,
        dataset=data,
        task=task,
        offline=True,
        seed=seed,
        device=arguments.device,
        **parameters,
    )
    evaluations = Evaluations(Monitor(gymnasium.make(env_id(task))), arguments.eval_every, arguments.episodes)
    model.learn(arguments.updates, callback=evaluations, log_interval=10)
    online: list[dict[str, float]] = []
    if arguments.online_steps:
        model.offline = False
        afterwards = Evaluations(evaluations.eval_env, arguments.eval_every, arguments.episodes)
        model.learn(arguments.online_steps, callback=afterwards, log_interval=10)
        online = afterwards.rows
    returns = data.data[0].returns
    result = {
        "task": task,
        "tag": tag,
        "seed": seed,
        "params": {name: repr(value) for name, value in parameters.items()},
        "world_model": Path(arguments.world_model).name,
        "threads": th.get_num_threads(),
        "data": {"mean": float(np.mean(returns)), "best": float(np.max(returns)), "episodes": len(returns)},
        "evaluations": evaluations.rows,
        "online": online,
    }
    with atomic_write(out) as file:
        file.write(json.dumps(result, indent=1).encode())


def read_results(out: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """:param out: Folder of results. :return: Those of each task and tag, by seed."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*/*.json")):
        result = json.loads(path.read_text())
        groups.setdefault((result["task"], result["tag"]), []).append(result)
    return groups


def plot(out: Path, tag: str, file: Path) -> None:
    """
    Draw the return over the updates, one panel for each task: the seeds' mean and range, and the data's mean and best.

    :param out: Folder of results.
    :param tag: Which settings.
    :param file: The picture, a PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = {task: results for (task, of), results in read_results(out).items() if of == tag}
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.8 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    for axis, (task, results) in zip(axes.flat, groups.items(), strict=False):
        minutes = np.mean([[row["seconds"] / 60 for row in result["evaluations"]] for result in results], axis=0)
        returns = np.array([[row["return"] for row in result["evaluations"]] for result in results])
        axis.plot(minutes, returns.mean(0), marker=".", label=f"PWM, mean and range of {len(results)} seeds")
        axis.fill_between(minutes, returns.min(0), returns.max(0), alpha=0.25)
        for name, style in (("mean", "--"), ("best", ":")):
            axis.axhline(results[0]["data"][name], color="black", linestyle=style, linewidth=1, label=f"data: {name}")
        axis.set_title(task, fontsize=9)
        axis.set_xlabel("minutes of extraction", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    with atomic_write(file) as stream:
        figure.savefig(stream, dpi=110, format="png")


def table(out: Path) -> str:
    """:param out: Folder of results. :return: A Markdown table, a line for each task and tag."""
    groups = read_results(out)
    lines = [
        "| task | settings | updates | minutes | data: mean | data: best | return (each seed) | success | best ones |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, tag), results in groups.items():
        last = [result["evaluations"][-1] for result in results]
        returns = [row["return"] for row in last]
        each = ", ".join(f"{value:.0f}" for value in returns)
        success = f"{np.mean([row['success'] for row in last]):.0%}" if "success" in last[0] else "-"
        minutes = np.mean([row["seconds"] for row in last]) / 60
        best = ", ".join(f"{max(row['return'] for row in result['evaluations']):.0f}" for result in results)
        data = results[0]["data"]
        lines.append(
            f"| {task} | {tag} | {last[0]['updates']:,} | {minutes:.1f} | {data['mean']:.0f} | {data['best']:.0f} | "
            f"**{np.mean(returns):.0f}** ({each}) | {success} | {best} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="extract policies")
    runs.add_argument("--world-model", type=Path, required=True)
    runs.add_argument("--dataset", nargs="+", required=True)
    runs.add_argument("--tasks", nargs="+", required=True)
    runs.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    runs.add_argument("--updates", type=int, default=4_000)
    runs.add_argument("--eval-every", type=int, default=1_000)
    runs.add_argument("--settings", choices=tuple(SETTINGS), default="default")
    runs.add_argument("--episodes", type=int, default=10)
    runs.add_argument("--params", default="{}", help="arguments in place of the settings', such as \"{'horizon': 8}\"")
    runs.add_argument("--tag", help="name of these settings, where it is to be another")
    runs.add_argument("--online-steps", type=int, default=0, help="agent steps to go on for in the environment")
    runs.add_argument("--like", help="task whose embedding a task begins with that the world model has not")
    runs.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    runs.add_argument("--device", default="auto")
    tables = commands.add_parser("table", help="the results so far")
    plots = commands.add_parser("plot", help="the returns over the minutes, as a picture")
    plots.add_argument("--tag", default="default")
    plots.add_argument("--file", type=Path, default=Path("extraction.png"))
    for command in (runs, tables, plots):
        command.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "run":
        register_envs()
        th.set_num_threads(arguments.threads)
        for task in arguments.tasks:
            for seed in arguments.seeds:
                print(f"{task}, seed {seed}", flush=True)
                run(arguments, task, seed)
    if arguments.command == "plot":
        plot(arguments.out, arguments.tag, arguments.file)
    else:
        print(table(arguments.out))


if __name__ == "__main__":
    main()
