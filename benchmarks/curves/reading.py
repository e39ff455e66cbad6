"""Curves as one table: a row for each evaluation of each run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from curves.runs import COLUMNS, TASK_OF, TASKS, Run, Task, read_description

CLOCKS = {"wall": "train_seconds", "cpu": "cpu_seconds"}


def read_curve(path: Path) -> pd.DataFrame:
    """
    Read the curve of one run. A line that a killed run left unfinished is dropped.

    :param path: CSV file of the run.
    :return: The evaluations of the run, one row each.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    unfinished = [number for number, line in enumerate(lines) if line.count(",") != len(COLUMNS) - 1]
    curve = pd.read_csv(path, skiprows=unfinished, on_bad_lines="error")
    stem, _, seed = path.stem.rpartition("-seed")
    algo, _, tag = stem.partition("-")
    label = algo.upper() + (f" {tag}" if tag else "")
    diverged = "diverged" in read_description(path)
    return curve.assign(algo=algo, env=path.parent.name, seed=int(seed), tag=tag, label=label, diverged=diverged)


def read_curves(folder: Path) -> pd.DataFrame:
    """
    Read all curves in a folder.

    :param folder: Folder of the curves.
    :return: All evaluations, sorted by task (the tasks of the comparison first), algorithm, variant, seed and step.
    """
    frames = [frame for path in sorted(folder.glob("*/*-seed*.csv")) if len(frame := read_curve(path))]
    if not frames:
        return pd.DataFrame(columns=[*COLUMNS, "label", "diverged"])
    order = {task.env: number for number, task in enumerate(TASKS)}
    curves = pd.concat(frames, ignore_index=True)
    curves["order"] = curves["env"].map(lambda env: order.get(env, len(order)))
    return curves.sort_values(["order", "env", "algo", "tag", "seed", "agent_steps"], ignore_index=True)


def is_finished(run: Run, out: Path) -> bool:
    """
    Check whether a run need not be repeated.

    :param run: The run.
    :param out: Folder of the curves.
    :return: Whether the curve is complete, or the run diverged after an evaluation, and was made with the present
        hyperparameters.
    """
    path = run.csv_path(out)
    description = read_description(path)
    if not path.exists() or not run.current(description):
        return False
    curve = read_curve(path)
    if not len(curve):
        return False
    ends = run.ends(int(curve["agent_steps"].iloc[-1]), float(curve["mean_return"].max()))
    return ends or "diverged" in description


def scores_at(curves: pd.DataFrame, agent_steps: int) -> pd.DataFrame:
    """
    Get the score of each seed at a step.

    :param curves: Evaluations of one algorithm on one task.
    :param agent_steps: The step.
    :return: One row for each seed: the first evaluation at or after the step, or the last evaluation if the run ended
        or diverged before. The column ``reached`` is False in the second case.
    """
    rows = []
    for _, curve in curves.groupby("seed"):
        later = curve[curve["agent_steps"] >= agent_steps]
        rows.append({**(later.iloc[0] if len(later) else curve.iloc[-1]).to_dict(), "reached": len(later) > 0})
    return pd.DataFrame(rows, columns=[*curves.columns, "reached"])


def seconds_to(curves: pd.DataFrame, score: float, clock: str) -> pd.Series:
    """
    Get the training time to a score.

    :param curves: Evaluations of one algorithm on one task.
    :param score: The score.
    :param clock: Name of the column with the training time.
    :return: For each seed the seconds until the first evaluation that reached the score, NaN if none did.
    """
    reached = curves[curves["mean_return"] >= score].groupby("seed")[clock].first()
    return reached.reindex(sorted(curves["seed"].unique())).astype(float)


def task_of(env: str, curves: pd.DataFrame) -> Task:
    """
    Get the task of an environment.

    :param env: Environment id.
    :param curves: Evaluations on the environment.
    :return: The task of the comparison. For another environment, a task that ends at the last step of the curves.
    """
    if env in TASK_OF:
        return TASK_OF[env]
    last = curves.iloc[-1]
    return Task(env, int(curves["agent_steps"].max()), 0, None, int(last["env_steps"]) // int(last["agent_steps"]))


def target_of(task: Task, curves: pd.DataFrame) -> float | None:
    """
    Get the score to reach.

    :param task: The task.
    :param curves: Evaluations on the task.
    :return: The target of the task. If it has none, SAC's mean score at the compared step, or None if no run of SAC
        reached that step.
    """
    if task.target is not None:
        return task.target
    scores = scores_at(curves[curves["label"] == "SAC"], task.steps)
    reached = scores.loc[scores["reached"].astype(bool), "mean_return"]
    return float(np.mean(reached)) if len(reached) else None
