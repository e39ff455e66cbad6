"""The comparison as a Markdown table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from peers.evaluation import normalized
from peers.runs import ALGORITHMS, COLUMNS, read_rows


def read_results(out: Path) -> pd.DataFrame:
    """:param out: Folder of the results. :return: All evaluations, a row each."""
    frames = [rows for path in sorted(out.glob("*/*-seed*.csv")) if len(rows := read_rows(path))]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def make_table(results: pd.DataFrame) -> str:
    """
    Compare the last evaluations of all runs.

    :param results: All evaluations.
    :return: A Markdown table: for each task, algorithm and length the mean over the seeds and their standard deviation,
        D4RL's normalized score of the mean, and the mean length in updates and in processor time.
    """
    lines = [
        "| task | algorithm | length | seeds | return | D4RL score | updates | CPU seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    last = results.groupby(["task", "algorithm", "limit", "seed"], sort=True).tail(1)
    for (task, algorithm, limit), rows in last.groupby(["task", "algorithm", "limit"], sort=True):
        mean, spread = rows["return"].mean(), rows["return"].std()
        score, seconds = normalized(str(task), mean), rows["cpu_seconds"].mean()
        cells = [str(task), ALGORITHMS.get(str(algorithm), str(algorithm)), str(limit), str(len(rows))]
        cells.append(f"{mean:.0f}" + ("" if pd.isna(spread) else f" ± {spread:.0f}"))
        cells.append("-" if score is None else f"{score:.1f}")
        cells += [f"{rows['update'].mean():,.0f}", "-" if pd.isna(seconds) else f"{seconds:,.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
