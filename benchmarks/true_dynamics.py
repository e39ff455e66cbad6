"""
First-order policy search in the true dynamics and in a learned world model: SHAC beside PWM, three tasks in torch.

SHAC (short-horizon actor-critic, arXiv 2204.07137) has PWM's rollouts and losses, with the simulator in the world
model's place. It learns from many more steps than PWM, and is evaluated at PWM's number of steps too::

    python benchmarks/true_dynamics.py sweep --jobs 2     # three seeds of both on every task; goes on after a break
    python benchmarks/true_dynamics.py sweep --only Torch-hopper-hop,shac,0
    python benchmarks/true_dynamics.py plot               # <out>/true_dynamics.png
    python benchmarks/true_dynamics.py table              # the Markdown table

A run is one process on one core, and its result one CSV file, as in learning_curves.py. On an idle core, a run of SHAC
takes 2 to 10 minutes and a run of PWM 5 to 15.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from curves.plots import STYLE, add_legend, draw_curves
from curves.queues import run_queue, select
from curves.reading import read_curves, scores_at
from curves.runs import SEEDS, Run
from curves.tables import score_cell

DEFAULT_OUT = Path("docs/true_dynamics")
DEFAULT_LOGS = Path("logs/true_dynamics")
STEPS = {  # by environment, of PWM and of SHAC
    "Torch-cartpole-swingup": (25_000, 500_000),
    "Torch-double-pendulum-swingup": (25_000, 500_000),
    "Torch-hopper-hop": (50_000, 1_000_000),
}


def all_runs() -> list[Run]:
    """:return: Every run of the comparison, the first seed of every task first."""
    runs = []
    for seed in SEEDS:
        for env, (of_pwm, of_shac) in STEPS.items():
            runs.append(Run("shac", env, seed, of_shac, of_pwm))
            runs.append(Run("pwm", env, seed, of_pwm, of_pwm // 10))
    return runs


def plot(curves: pd.DataFrame, out: Path) -> None:
    """
    Draw the returns against environment steps and against processor time, both on logarithmic axes.

    :param curves: All evaluations.
    :param out: Folder of the picture.
    """
    envs = curves["env"].unique()
    with sns.axes_style("whitegrid", STYLE):
        figure, grid = plt.subplots(
            2, len(envs), figsize=(3.2 * len(envs), 5.2), sharey="col", squeeze=False, layout="constrained"
        )
        for column, env in enumerate(envs):
            for axes, clock, label in zip(
                grid[:, column], ("env_steps", "cpu_seconds"), ("environment steps", "CPU seconds"), strict=True
            ):
                draw_curves(axes, curves[curves["env"] == env], clock, unit=1.0)
                axes.set(xscale="log", xlabel=label, ylabel="" if column else "return")
                axes.get_legend().remove()  # the figure has one
            grid[0, column].set_title(env, fontweight="bold")
        add_legend(figure)
        figure.savefig(out / "true_dynamics.png", dpi=160)
        plt.close(figure)


def make_table(curves: pd.DataFrame) -> str:
    """
    :param curves: All evaluations.
    :return: A Markdown table: PWM and SHAC at PWM's number of environment steps, and SHAC at its own.
    """
    lines = [
        "| task | steps | PWM (each seed) | CPU | SHAC (each seed) | CPU | steps | SHAC (each seed) | CPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for env, of_env in curves.groupby("env", sort=False):
        cells, (of_pwm, of_shac) = [str(env)], STEPS[str(env)]
        for steps, labels in ((of_pwm, ("PWM", "SHAC")), (of_shac, ("SHAC",))):
            cells.append(f"{steps:,}")
            for group in (of_env[of_env["label"] == label] for label in labels):
                seconds = scores_at(group, steps)["cpu_seconds"]
                cells += [score_cell(group, steps), f"{seconds.mean():.0f} s" if len(group) else "-"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """:param arguments: Command-line arguments; None: those of this process. :return: Exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("sweep", "plot", "table"))
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the curves (default: %(default)s)")
    parser.add_argument("--logs", type=Path, default=DEFAULT_LOGS, help="folder of the output (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, a core each (default: %(default)s)")
    parser.add_argument("--only", default="", help="filter such as Torch-hopper-hop,shac,0")
    args = parser.parse_args(arguments)
    if args.command == "sweep":
        cores = sorted(os.sched_getaffinity(0))[: args.jobs]
        return 1 if run_queue(select(all_runs(), args.only), args.out, args.logs, cores) else 0
    curves = read_curves(args.out)
    if not len(curves):
        raise SystemExit(f"No curves below {args.out}: run the sweep first.")
    if args.command == "plot":
        plot(curves, args.out)
    else:
        print(make_table(curves))
    return 0


if __name__ == "__main__":
    sys.exit(main())
