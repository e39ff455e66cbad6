"""Pictures of learning curves: a picture for each task, and an overview."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from curves.published import DRAWN, published_means
from curves.reading import CLOCKS, target_of, task_of
from curves.runs import TASKS, Task

COLORS = {"PWM": "#0b62a4", "SAC": "#d1651a", "TQC": "#c23b67", "CROSSQ": "#5b6770"}
OTHER_COLORS = ("#3a8f5c", "#8b4fa3", "#7a5c3e", "#a38a00")
PUBLISHED_AT = 100_000
"""Number of environment steps whose published scores are drawn"""
PUBLISHED_COLORS = {"TD-MPC2": "#3a8f5c", "SimbaV2": "#a38a00", "SAC": "#d1651a", "DreamerV3": "#8b4fa3"}
PUBLISHED_MARKERS = {"TD-MPC2": "D", "SimbaV2": "^", "SAC": "o", "DreamerV3": "s"}
STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "savefig.dpi": 160,
}


def draw_curves(axes: Axes, curves: pd.DataFrame, clock: str, unit: float) -> None:
    """
    Draw the curves of one task: every seed thin, their mean thick as far as all seeds go, shaded its 95% bootstrap
    interval.

    :param axes: Where to draw.
    :param curves: Evaluations on the task.
    :param clock: Column of the horizontal axis.
    :param unit: Number that the clock is divided by.
    """
    others = itertools.cycle(OTHER_COLORS)
    for label, group in curves.groupby("label", sort=False):
        color = COLORS.get(str(label)) or next(others)
        group = group.assign(x=group[clock] / unit)
        n_seeds = group["seed"].nunique()
        sns.lineplot(
            group, x="x", y="mean_return", units="seed", estimator=None, color=color, linewidth=0.7, alpha=0.45, ax=axes
        )
        common = group[group.groupby("agent_steps")["seed"].transform("nunique") == n_seeds]
        # At a step the seeds have different times: they are drawn at their mean time.
        common = common.assign(x=common.groupby("agent_steps")["x"].transform("mean"))
        name = f"{label} ({n_seeds} seed{'s' if n_seeds > 1 else ''})"
        sns.lineplot(
            common, x="x", y="mean_return", errorbar=("ci", 95), seed=0, color=color, linewidth=2.2, label=name,
            err_kws=dict(alpha=0.13, linewidth=0), ax=axes,
        )  # fmt: skip


def draw_task(axes: Axes, task: Task, curves: pd.DataFrame, clock: str, published: bool) -> None:
    """
    Draw one task against environment steps or against training time.

    :param axes: Where to draw.
    :param task: The task.
    :param curves: Evaluations on it.
    :param clock: Column of the horizontal axis.
    :param published: Whether to draw published scores.
    """
    unit, limit = 1.0, float(curves[clock].max())
    draw_curves(axes, curves, clock, unit := 60.0 if clock != "env_steps" and limit > 900 else unit)
    if clock == "env_steps":
        limit = task.steps * task.action_repeat
        means = published_means(task.env, PUBLISHED_AT)
        scores = {name: means[method] for name, method in DRAWN.items() if method in means}
        if published and scores:
            limit = max(limit, PUBLISHED_AT)
            for name, score in scores.items():
                color = PUBLISHED_COLORS[name]
                (point,) = axes.plot(PUBLISHED_AT, score, PUBLISHED_MARKERS[name], color=color, clip_on=False)
                point.set(label=f"{name}, published", markersize=6, markerfacecolor="none", markeredgewidth=1.6)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x else "0"))
        axes.set_xlabel("environment steps")
    else:
        axes.set_xlabel(f"training {'CPU ' if clock == 'cpu_seconds' else ''}{'minutes' if unit > 1 else 'seconds'}")
    axes.set_ylabel("")
    if axes.get_legend() is not None:
        axes.get_legend().remove()  # the figure has one for all panels
    axes.set_xlim(0, limit / unit)
    target = target_of(task, curves)
    if target is not None:
        axes.axhline(target, color="#555555", linewidth=1, linestyle=(0, (4, 3)), label="score to reach")


def add_legend(figure: Figure) -> None:
    """:param figure: Figure that gets one legend for all panels: runs first, then published scores, each name once."""
    handles: dict[str, Any] = {}
    seeds: dict[str, set[str]] = {}  # by name: what is written about the number of seeds, which may differ
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            name, _, number = label.partition(" (")
            handles.setdefault(name, handle)
            seeds.setdefault(name, set()).add(f" ({number}" if number else "")
    names = sorted(handles, key=lambda name: name.endswith("published"))
    labels = [name + (seeds[name].pop() if len(seeds[name]) == 1 else "") for name in names]
    figure.legend([handles[name] for name in names], labels, loc="outside lower center", ncols=min(len(labels), 5))


def plot(curves: pd.DataFrame, out: Path, clock: str = "wall", published: bool = True) -> list[Path]:
    """
    Draw a picture of each task, and an overview.

    :param curves: All evaluations.
    :param out: Folder of the pictures.
    :param clock: ``wall`` or ``cpu``.
    :param published: Whether to draw published scores.
    :return: The pictures.
    """
    pictures = []
    groups = {str(env): of_env for env, of_env in curves.groupby("env", sort=False)}

    def save(figure: Figure, name: str) -> None:
        add_legend(figure)
        pictures.append(out / f"{name}.png")
        figure.savefig(pictures[-1])
        plt.close(figure)

    with sns.axes_style("whitegrid", STYLE):
        for env, of_env in groups.items():
            figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.7), sharey=True, layout="constrained")
            draw_task(left, task_of(env, of_env), of_env, "env_steps", published)
            draw_task(right, task_of(env, of_env), of_env, CLOCKS[clock], published)
            left.set_ylabel("return, 10 deterministic episodes")
            figure.suptitle(env, fontweight="bold")
            save(figure, env)
        in_overview = {task.env for task in TASKS}
        known = {env: of_env for env, of_env in groups.items() if env in in_overview} or groups
        figure, grid = plt.subplots(
            2, len(known), figsize=(2.3 * len(known) + 0.6, 5), sharey="col", squeeze=False, layout="constrained"
        )
        for column, (env, of_env) in enumerate(known.items()):
            draw_task(grid[0, column], task_of(env, of_env), of_env, "env_steps", published)
            draw_task(grid[1, column], task_of(env, of_env), of_env, CLOCKS[clock], published)
            grid[0, column].set_title(env, fontweight="bold")
        for axes in grid[:, 0]:
            axes.set_ylabel("return")
        save(figure, "overview")
    return pictures
