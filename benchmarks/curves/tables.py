"""The comparison as Markdown: a row for each task, and aggregates over tasks with bootstrap intervals."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from rliable import library, metrics

from curves.published import DMC21, published_means
from curves.reading import CLOCKS, scores_at, seconds_to, target_of, task_of

BOOTSTRAP_SAMPLES = 2_000


def make_table(curves: pd.DataFrame, clock: str = "wall", sac_at: int | None = None) -> str:
    """
    :param curves: All evaluations.
    :param clock: ``wall`` or ``cpu``.
    :param sac_at: Number of environment steps at which SAC's mean score is the score to reach, in place of each task's.
        Tasks without a curve of SAC that goes so far are left out.
    :return: A Markdown table.
    """
    name = {"wall": "wall-clock", "cpu": "CPU time"}[clock]
    lines = [
        f"| task | env steps | PWM (each seed) | SAC (each seed) | score | PWM {name} to it | SAC {name} to it "
        "| SAC / PWM |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for env, of_env in curves.groupby("env", sort=False):
        task = task_of(str(env), of_env)
        if sac_at is not None:
            task = dataclasses.replace(task, steps=sac_at // task.action_repeat, target=None)
        target = target_of(task, of_env)
        if sac_at is not None and target is None:
            continue
        sac = of_env[of_env["label"] == "SAC"]
        others = of_env[of_env["label"] != "SAC"]
        for label in others["label"].unique() if len(others) else ["PWM"]:
            pwm = others[others["label"] == label]
            cells = [str(env) if label == "PWM" else f"{env} ({label})", f"{task.steps * task.action_repeat:,}"]
            cells += [score_cell(pwm, task.steps), score_cell(sac, task.steps)]
            if target is None:
                cells += ["-"] * 4
            else:
                cells.append(f"{target:.0f}" + ("" if task.target is not None else " (SAC's)"))
                cells += [seconds_cell(group, target, CLOCKS[clock]) for group in (pwm, sac)]
                cells.append(ratio_cell(pwm, sac, target, CLOCKS[clock]))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def score_cell(curves: pd.DataFrame, agent_steps: int) -> str:
    """
    :param curves: Evaluations of one algorithm on one task.
    :param agent_steps: The compared step.
    :return: The mean over the seeds, and each seed. A run that ended before counts with its last evaluation.
    """
    if not len(curves):
        return "-"
    scores = scores_at(curves, agent_steps)
    each = [
        f"{row.mean_return:.0f}"
        + ("" if row.reached else f"{', diverged' if row.diverged else ''} at {row.env_steps:,}")
        for row in scores.itertuples(index=False)
    ]
    return f"**{scores['mean_return'].mean():.0f}** ({', '.join(each)})"


def seconds_cell(curves: pd.DataFrame, target: float, clock: str) -> str:
    """:return: The mean time of the seeds that reached the score, and how many did."""
    if not len(curves):
        return "-"
    seconds = seconds_to(curves, target, clock)
    reached = seconds.dropna()
    if not len(reached):
        return "not reached"
    return f"{reached.mean():.0f} s" + ("" if len(reached) == len(seconds) else f" ({len(reached)} of {len(seconds)})")


def ratio_cell(pwm: pd.DataFrame, sac: pd.DataFrame, target: float, clock: str) -> str:
    """
    :return: SAC's time divided by PWM's. Where a seed of SAC did not reach the score, its whole run is a lower bound,
        and so is the ratio. Where a seed of PWM did not, there is no ratio.
    """
    ours = seconds_to(pwm, target, clock)
    if not len(sac) or not len(ours) or ours.isna().any():
        return "-"
    theirs = seconds_to(sac, target, clock)
    bound = "> " if theirs.isna().any() else ""
    theirs = theirs.fillna(sac.groupby("seed")[clock].max())
    return f"{bound}{theirs.mean() / ours.mean():.2g}"


def compare_with_published(
    curves: pd.DataFrame, env_steps: int, methods: Sequence[str], labels: Sequence[str], envs: Sequence[str] = ()
) -> str:
    """
    Compare scores after a number of environment steps with published ones.

    :param curves: All evaluations.
    :param env_steps: The number of environment steps.
    :param methods: Published methods.
    :param labels: Algorithms, and variants of them, of the curves.
    :param envs: Environments, each a row. Empty: those that have a curve of the first label and a published score.
    :return: A Markdown table. Its last row has means over the tasks of DMControl above, whose returns have one scale;
        and over how many, where some are missing.
    """
    published = {str(env): published_means(str(env), env_steps) for env in envs or curves["env"].unique()}
    ours = set(curves.loc[curves["label"] == labels[0], "env"])
    rows = [env for env, means in published.items() if envs or (env in ours and len(means))]
    columns = [*labels, *methods]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    values: dict[str, list[float]] = {column: [] for column in columns}
    for env in rows:
        of_env, cells = curves[curves["env"] == env], [env]
        for label in labels:
            of_label = of_env[of_env["label"] == label]
            steps = env_steps // task_of(env, of_label).action_repeat if len(of_label) else 0
            cells.append(score_cell(of_label, steps))
            if len(of_label) and env in DMC21:
                values[label].append(scores_at(of_label, steps)["mean_return"].mean())
        for method in methods:
            score = published[env].get(method)
            cells.append("-" if score is None else f"{score:.0f}")
            if score is not None and env in DMC21:
                values[method].append(score)
        lines.append("| " + " | ".join(cells) + " |")
    n_tasks = len(set(rows) & set(DMC21))
    means = [
        (f"{np.mean(scores):.0f}" if scores else "-")
        + ("" if len(scores) == n_tasks else f" ({len(scores)} of {n_tasks})")
        for scores in values.values()
    ]
    lines.append(f"| mean of {n_tasks} tasks of DMControl | " + " | ".join(means) + " |")
    return "\n".join(lines)


def make_aggregates(curves: pd.DataFrame, labels: Sequence[str] = ("PWM", "SAC"), seed: int = 0) -> str:
    """
    Aggregate the DMControl tasks that all of some algorithms have learned, with 95% stratified bootstrap intervals.

    :param curves: All evaluations.
    :param labels: The algorithms, and variants of them.
    :param seed: Seed of the bootstrap.
    :return: A Markdown table: mean, median and interquartile mean of the returns divided by 1,000, and the probability
        of improvement of the first algorithm over each of the others. All tasks of an algorithm count with the same
        number of seeds.
    """
    scores: dict[str, dict[str, np.ndarray]] = {label: {} for label in labels}
    for env, of_env in curves.groupby("env", sort=False):
        if env not in DMC21 or not set(labels) <= set(of_env["label"]):
            continue
        task = task_of(str(env), of_env)
        for label in labels:
            of_label = of_env[of_env["label"] == label]
            scores[label][str(env)] = scores_at(of_label, task.steps)["mean_return"].to_numpy() / 1_000.0
    first, *others = labels
    if not scores[first]:
        return f"No DMControl task has curves of all of {', '.join(labels)}."
    n_seeds = {label: min(map(len, of_task.values())) for label, of_task in scores.items()}
    matrices = {
        label: np.stack([values[: n_seeds[label]] for values in of_task.values()], axis=1)
        for label, of_task in scores.items()
    }

    def aggregate(matrix: np.ndarray) -> np.ndarray:
        parts = metrics.aggregate_mean, metrics.aggregate_median, metrics.aggregate_iqm
        return np.array([part(matrix) for part in parts])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of rliable's own dependency, about the kind of generator
        points, intervals = library.get_interval_estimates(
            matrices, aggregate, reps=BOOTSTRAP_SAMPLES, random_state=np.random.RandomState(seed)
        )
    lines = ["| | mean | median | interquartile mean | seeds |", "|---|---|---|---|---|"]
    for label, values in points.items():
        low, high = intervals[label]
        cells = [f"{value:.2f} ({a:.2f} to {b:.2f})" for value, a, b in zip(values, low, high, strict=True)]
        lines.append(f"| {label} | {' | '.join(cells)} | {n_seeds[label]} |")
    lines += ["", f"{len(scores[first])} tasks."]
    for other in others:
        improvement = metrics.probability_of_improvement(matrices[first], matrices[other])
        lines[-1] += f" Probability that {first}'s score is above {other}'s: {improvement:.2f}."
    return "\n".join(lines)
