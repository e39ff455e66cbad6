"""Curves as one table: a row for each evaluation of each run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from curves.runs import COLUMNS, TASK_OF, TASKS, Run, Task

CLOCKS = {"wall": "train_seconds", "cpu": "cpu_seconds"}


def read_curve(path: Path) -> pd.DataFrame:
    """
    :param path: CSV file of a run.
    :return: Its evaluations. The last line that a killed run left unfinished is dropped.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    whole = [number for number, line in enumerate(lines) if line.count(",") != len(COLUMNS) - 1]
    curve = pd.read_csv(path, skiprows=whole, on_bad_lines="error")
    stem, _, seed = path.stem.rpartition("-seed")
    algo, _, tag = stem.partition("-")
    label = algo.upper() + (f" {tag}" if tag else "")
    return curve.assign(algo=algo, env=path.parent.name, seed=int(seed), tag=tag, label=label)


def read_curves(folder: Path) -> pd.DataFrame:
    """
    :param folder: Folder of the curves.
    :return: All evaluations, by task (the comparison's first), algorithm, variant, seed and step.
    """
    frames = [frame for path in sorted(folder.glob("*/*-seed*.csv")) if len(frame := read_curve(path))]
    if not frames:
        return pd.DataFrame(columns=[*COLUMNS, "label"])
    order = {task.env: number for number, task in enumerate(TASKS)}
    curves = pd.concat(frames, ignore_index=True)
    curves["order"] = curves["env"].map(lambda env: order.get(env, len(order)))
    return curves.sort_values(["order", "env", "algo", "tag", "seed", "agent_steps"], ignore_index=True)


def is_finished(run: Run, out: Path) -> bool:
    """
    :param run: The run.
    :param out: Folder of the curves.
    :return: Whether its curve goes to the end and was made with today's hyperparameters.
    """
    path = run.csv_path(out)
    if not path.exists() or not run.current(path.with_suffix(".json")):
        return False
    curve = read_curve(path)
    return len(curve) > 0 and run.ends(int(curve["agent_steps"].iloc[-1]), float(curve["mean_return"].max()))


def scores_at(curves: pd.DataFrame, agent_steps: int) -> pd.DataFrame:
    """
    Scores of each seed at a step.

    :param curves: Evaluations of one algorithm on one task.
    :param agent_steps: The step.
    :return: A row for each seed: its first evaluation at or after the step, else its last one; ``reached`` says which.
    """
    rows = []
    for _, curve in curves.groupby("seed"):
        later = curve[curve["agent_steps"] >= agent_steps]
        rows.append({**(later.iloc[0] if len(later) else curve.iloc[-1]).to_dict(), "reached": len(later) > 0})
    return pd.DataFrame(rows, columns=[*curves.columns, "reached"])


def seconds_to(curves: pd.DataFrame, score: float, clock: str) -> pd.Series:
    """
    Time to a score.

    :param curves: Evaluations of one algorithm on one task.
    :param score: The score.
    :param clock: Column of the clock.
    :return: For each seed the training seconds at the first evaluation that reached it, NaN if none did.
    """
    reached = curves[curves["mean_return"] >= score].groupby("seed")[clock].first()
    return reached.reindex(sorted(curves["seed"].unique())).astype(float)


def task_of(env: str, curves: pd.DataFrame) -> Task:
    """
    :param env: Environment id.
    :param curves: Evaluations on it.
    :return: The comparison's task. For another environment one that ends where its curves end.
    """
    if env in TASK_OF:
        return TASK_OF[env]
    last = curves.iloc[-1]
    return Task(env, int(curves["agent_steps"].max()), 0, None, int(last["env_steps"]) // int(last["agent_steps"]))


def target_of(task: Task, curves: pd.DataFrame) -> float | None:
    """
    :param task: The task.
    :param curves: Evaluations on it.
    :return: The score to reach: the task's own, else SAC's mean at the compared step, if SAC went so far.
    """
    if task.target is not None:
        return task.target
    scores = scores_at(curves[curves["label"] == "SAC"], task.steps)
    reached = scores.loc[scores["reached"].astype(bool), "mean_return"]
    return float(np.mean(reached)) if len(reached) else None
