"""
Adam and L-BFGS in extraction: returns at equal gradient evaluations of the actor, and at equal processor time.

::

    python benchmarks/policy_optimizers.py run --world-model wm.safetensors --data data/mt30 --tasks walker-walk \\
        --evaluations 20000 --cpu-seconds 900 --seeds 0 1 2
    python benchmarks/policy_optimizers.py report --evaluations 20000 --cpu-seconds 900       # table and picture

A run ends when it has made the evaluations and used the processor time, so that one run serves both comparisons. A run
that is finished is skipped if the command is repeated. All runs learn on one core, and evaluations on the same start
states do not count. ``{task}`` in ``--data`` stands for the task, and ``.pkl`` is a replay buffer of SB3.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch as th
from stable_baselines3.common.env_util import make_vec_env

from sb3_pwm import PWM, OfflineDataset, WorldModel
from sb3_pwm.common.evaluation import Row, TimedEvaluation
from sb3_pwm.data.environments import find_task, flat_env, make_env, stored_name
from sb3_pwm.pwm.lbfgs import LBFGS

DEFAULT_OUT = Path("logs/policy_optimizers")
DEFAULT_VARIANTS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam-512": dict(batch_size=512),
    "lbfgs-512": dict(policy_optimizer="lbfgs", batch_size=512),
}
CLOCKS = {"evaluations": "gradient evaluations of the actor", "cpu_seconds": "processor time of learning (s)"}
COLUMNS = ("task", "variant", "seed", "updates", *CLOCKS, "return", "std", "actor_loss", "failures")
EVALUATION_SEED = 1_000


@dataclasses.dataclass(frozen=True)
class Run:
    """
    One extraction.

    :param task: Name of a task, or an id that is registered in Gymnasium.
    :param variant: Name of the arguments.
    :param arguments: Arguments of PWM.
    :param seed: Seed of the extraction.
    :param world_model: File of the world model.
    :param data: What ``OfflineDataset.load`` takes, or a replay buffer (``.pkl``).
    :param evaluations: Number of gradient evaluations that the run makes at least.
    :param cpu_seconds: Processor time of learning that the run uses at least.
    :param eval_every: Number of gradient evaluations between two evaluations of the policy.
    :param eval_episodes: Number of episodes of an evaluation.
    """

    task: str
    variant: str
    arguments: dict[str, Any]
    seed: int
    world_model: str
    data: str
    evaluations: int
    cpu_seconds: float
    eval_every: int
    eval_episodes: int

    def path(self, out: Path) -> Path:
        """:param out: Folder of the results. :return: File of the evaluations."""
        return out / self.task / f"{self.variant}-seed{self.seed}.csv"

    def is_finished(self, out: Path) -> bool:
        """:param out: Folder of the results. :return: Whether it has the results of this run."""
        path = self.path(out)
        description = path.with_suffix(".json")
        return description.exists() and json.loads(description.read_text()) == dataclasses.asdict(self)

    def ends(self, row: Row) -> bool:
        """:param row: An evaluation. :return: Whether the run is over."""
        return row["evaluations"] >= self.evaluations and row["cpu_seconds"] >= self.cpu_seconds


def extract(run: Run, out: Path) -> None:
    """
    Make a run, and write its evaluations.

    :param run: The run.
    :param out: Folder of the results.
    """
    task, env_id = find_task(run.task)
    world_model = WorldModel.load(run.world_model)
    name = stored_name(task, world_model.config.tasks)
    source = run.data.format(task=run.task)
    model = PWM(
        "MlpPolicy",
        flat_env(make_env(env_id)),
        world_model=world_model,
        dataset=OfflineDataset.from_replay_buffer(source, name) if source.endswith(".pkl") else source,
        task=name,
        offline=True,
        keep_best=False,
        compile=False,
        seed=run.seed,
        device="cpu",
        **run.arguments,
    )
    optimizer = model.policy.actor_optimizer
    per_update = optimizer.param_groups[0]["max_eval"] if isinstance(optimizer, LBFGS) else 1
    rows: list[dict[str, Any]] = []

    def on_evaluation(row: Row) -> bool:
        row["evaluations"] = row.get("actor_evaluations", row["timesteps"])
        values = {**row, "updates": row["timesteps"], "failures": row.get("line_search_failures", 0)}
        rows.append({**values, "task": run.task, "variant": run.variant, "seed": run.seed})
        print(f"{run.task} {run.variant} seed {run.seed}: {row['evaluations']:.0f} evaluations, "
              f"{row['cpu_seconds']:.0f} s, return {row['return']:.1f}", flush=True)  # fmt: skip
        return not run.ends(row)

    eval_env = make_vec_env(lambda: flat_env(make_env(env_id)))
    evaluation = TimedEvaluation(
        eval_env,
        max(run.eval_every // per_update, 1),
        run.eval_episodes,
        at_start=True,
        seed=EVALUATION_SEED,
        metrics=("actor_evaluations", "line_search_failures", "actor_loss"),
        on_evaluation=on_evaluation,
    )
    model.learn(sys.maxsize // 2, callback=evaluation, log_interval=100)
    eval_env.close()
    path = run.path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).reindex(columns=list(COLUMNS)).to_csv(path, index=False, float_format="%.6g")
    path.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(run), indent=1) + "\n")


def read(out: Path) -> pd.DataFrame:
    """:param out: Folder of the results. :return: All evaluations."""
    files = sorted(out.glob("*/*.csv"))
    if not files:
        raise SystemExit(f"error: no results below {out}: run the benchmark first.")
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True)


def at_budget(rows: pd.DataFrame, clock: str, budget: float) -> pd.Series:
    """
    :param rows: All evaluations.
    :param clock: Column that the budget is of.
    :param budget: Budget of each run.
    :return: Return of the last evaluation within the budget, by task, variant and seed.
    """
    within = rows[rows[clock] <= budget].sort_values(clock)
    return within.groupby(["task", "variant", "seed"])["return"].last()


def table(rows: pd.DataFrame, evaluations: int, cpu_seconds: float) -> str:
    """
    :param rows: All evaluations.
    :param evaluations: Number of gradient evaluations to compare at.
    :param cpu_seconds: Processor time to compare at.
    :return: A Markdown table of the mean over the seeds and its standard deviation.
    """
    columns = {"evaluations": f"{evaluations:,} evaluations", "cpu_seconds": f"{cpu_seconds:g} CPU seconds"}
    lines = [f"| task | optimizer | seeds | {' | '.join(columns.values())} |", "|---|---|---|---|---|"]
    scores = {
        clock: at_budget(rows, clock, budget) for clock, budget in zip(CLOCKS, (evaluations, cpu_seconds), strict=True)
    }
    for (task, variant), group in rows.groupby(["task", "variant"]):
        cells = []
        for clock in CLOCKS:
            seeds = scores[clock].loc[task, variant]
            spread = f" ± {seeds.std():.0f}" if len(seeds) > 1 else ""
            cells.append(f"{seeds.mean():.0f}{spread}")
        lines.append(f"| {task} | {variant} | {group['seed'].nunique()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: pd.DataFrame, picture: Path) -> None:
    """
    Draw the returns against evaluations and against processor time: each seed thin, their mean thick.

    :param rows: All evaluations.
    :param picture: File of the picture.
    """
    tasks, variants = sorted(rows["task"].unique()), sorted(rows["variant"].unique())
    figure, grid = plt.subplots(
        2, len(tasks), figsize=(3.0 * len(tasks) + 0.6, 5.4), sharey="col", squeeze=False, layout="constrained"
    )
    for (row, (clock, label)), (column, task) in itertools.product(enumerate(CLOCKS.items()), enumerate(tasks)):
        axes = grid[row, column]
        for number, variant in enumerate(variants):
            runs = [run for _, run in rows[(rows.task == task) & (rows.variant == variant)].groupby("seed")]
            if not runs:
                continue
            for run in runs:
                axes.plot(run[clock], run["return"], color=f"C{number}", linewidth=0.7, alpha=0.45)
            points = np.linspace(0.0, min(run[clock].max() for run in runs), 50)
            means = np.mean([np.interp(points, run[clock], run["return"]) for run in runs], axis=0)
            axes.plot(points, means, color=f"C{number}", linewidth=2.2, label=f"{variant} ({len(runs)} seeds)")
        axes.set_xlabel(label)
        axes.set_title(task if row == 0 else "", fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("return")
    grid[0, 0].legend(frameon=False, fontsize=8.5)
    figure.savefig(picture, dpi=160)
    plt.close(figure)


def run_command(args: argparse.Namespace) -> int:
    """The ``run`` subcommand."""
    variants = ast.literal_eval(args.variants) if args.variants else DEFAULT_VARIANTS
    th.set_num_threads(1)
    every = args.eval_every or max(args.evaluations // 20, 1)
    common = (args.world_model, args.data, args.evaluations, args.cpu_seconds, every, args.eval_episodes)
    runs = [
        Run(task, variant, arguments, seed, *common)
        for seed in args.seeds
        for task in args.tasks
        for variant, arguments in variants.items()
    ]
    missing = [run for run in runs if not run.is_finished(args.out)]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before", flush=True)
    for run in missing:
        extract(run, args.out)
    return 0


def report_command(args: argparse.Namespace) -> int:
    """The ``report`` subcommand."""
    rows = read(args.out)
    last = rows.groupby(["task", "variant", "seed"])[list(CLOCKS)].max().min()
    print(table(rows, args.evaluations or int(last["evaluations"]), args.cpu_seconds or float(last["cpu_seconds"])))
    rows.to_csv(args.out / "evaluations.csv", index=False)
    plot(rows, args.out / "returns.png")
    print(f"Written: {args.out / 'evaluations.csv'}, {args.out / 'returns.png'}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """:return: The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="extract policies, skipping the runs that are finished")
    report = commands.add_parser("report", help="print the comparison as a Markdown table, and draw it")
    for sub, function in ((run, run_command), (report, report_command)):
        sub.set_defaults(function=function)
        sub.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the results (default: %(default)s)")
    run.add_argument("--world-model", required=True, help="file of the world model")
    run.add_argument("--data", required=True, help="folder of a data set, Minari id, or replay buffer (.pkl)")
    run.add_argument("--tasks", nargs="+", required=True, help="names of tasks, or registered ids")
    run.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    run.add_argument("--evaluations", type=int, default=20_000, help="gradient evaluations (default: %(default)s)")
    run.add_argument("--cpu-seconds", type=float, default=900.0, help="processor time (default: %(default)s)")
    run.add_argument("--eval-every", type=int, help="gradient evaluations per evaluation (default: a twentieth)")
    run.add_argument("--eval-episodes", type=int, default=10, help="episodes of an evaluation (default: %(default)s)")
    run.add_argument("--variants", help=f"arguments of PWM by name (default: {DEFAULT_VARIANTS})")
    report.add_argument("--evaluations", type=int, help="where to compare (default: as far as all runs go)")
    report.add_argument("--cpu-seconds", type=float, help="where to compare (default: as far as all runs go)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """:param arguments: Command-line arguments; None: those of this process. :return: Exit code."""
    args = make_parser().parse_args(arguments)
    try:
        result: int = args.function(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    return result


if __name__ == "__main__":
    sys.exit(main())
