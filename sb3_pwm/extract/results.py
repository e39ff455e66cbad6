"""Results of extractions: a table, a CSV file and a picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sb3_pwm.common.files import atomic_write
from sb3_pwm.tasks import folder_name

Results = dict[tuple[str, str], list[dict[str, Any]]]
"""Results of all seeds, by task and tag; see :func:`~sb3_pwm.extract.extract_policy`"""


def result_file(out: Path, task: str, tag: str, seed: int) -> Path:
    """
    Get the file of a result.

    :param out: Folder of the results.
    :param task: Name of the task.
    :param tag: Name of the run.
    :param seed: Seed of the extraction.
    :return: The file.
    """
    return out / folder_name(task) / f"{tag}-seed{seed}.json"


def read_results(out: Path) -> Results:
    """
    Read all results in a folder.

    :param out: Folder of the results. It need not exist.
    :return: The results.
    :raises ValueError: If a file is damaged, or is no result. The message names it.
    """
    groups: Results = {}
    for path in sorted(out.glob("*/*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            _ = result["seed"], result["data"], result["evaluations"][-1]["return"]
            groups.setdefault((result["task"], result["tag"]), []).append(result)
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is damaged, or is no result of an extraction: {error!r}.") from error
    return groups


def summarize(results: Results) -> pd.DataFrame:
    """
    Make a table of the last and best evaluations.

    :param results: The results, see :func:`read_results`.
    :return: Data frame with a row for each task, tag and seed, and the columns ``task``, ``tag``, ``seed``,
        ``updates``, ``minutes``, ``data_mean``, ``data_best``, ``return``, ``best_return`` and ``success``.
    """
    rows = []
    for (task, tag), group in results.items():
        for result in group:
            last = result["evaluations"][-1]
            rows.append(
                {
                    "task": task,
                    "tag": tag,
                    "seed": result["seed"],
                    "updates": last.get("timesteps", last.get("updates")),
                    "minutes": last["seconds"] / 60,
                    "data_mean": result["data"]["mean"],
                    "data_best": result["data"]["best"],
                    "return": last["return"],
                    "best_return": max(row["return"] for row in result["evaluations"]),
                    "success": last.get("success", np.nan),
                }
            )
    return pd.DataFrame(rows)


def table(results: Results) -> str:
    """
    Make a Markdown table of the results.

    :param results: The results, see :func:`read_results`.
    :return: The table, with one line per task and tag.
    """
    lines = [
        "| task | settings | updates | minutes | data: mean | data: best | return (each seed) | success | "
        "best evaluations |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    frame = summarize(results)
    for (task, tag), rows in frame.groupby(["task", "tag"], sort=False) if len(frame) else ():
        each = ", ".join(f"{value:.0f}" for value in rows["return"])
        best = ", ".join(f"{value:.0f}" for value in rows["best_return"])
        success = "-" if rows["success"].isna().any() else f"{rows['success'].mean():.0%}"
        first = rows.iloc[0]
        lines.append(
            f"| {task} | {tag} | {first['updates']:,} | {rows['minutes'].mean():.1f} | {first['data_mean']:.0f} | "
            f"{first['data_best']:.0f} | **{rows['return'].mean():.0f}** ({each}) | {success} | {best} |"
        )
    return "\n".join(lines)


def plot(results: Results, tag: str, file: Path) -> None:
    """
    Draw the return over the time of extraction. Each task has a panel with the mean and the range over the seeds.

    :param results: The results, see :func:`read_results`.
    :param tag: Name of the run whose results are drawn.
    :param file: File of the picture, a PNG.
    """
    groups = {task: group for (task, of), group in results.items() if of == tag}
    columns = min(len(groups), 3)
    n_rows = -(-len(groups) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, columns, squeeze=False)
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    for axis, (task, group) in zip(axes.flat, groups.items(), strict=False):
        minutes = np.mean([[row["seconds"] / 60 for row in result["evaluations"]] for result in group], axis=0)
        returns = np.array([[row["return"] for row in result["evaluations"]] for result in group])
        axis.plot(minutes, returns.mean(0), marker=".", label=f"PWM, mean and range of {len(group)} seeds")
        axis.fill_between(minutes, returns.min(0), returns.max(0), alpha=0.25)
        for name, style in (("mean", "--"), ("best", ":")):
            axis.axhline(group[0]["data"][name], color="black", linestyle=style, linewidth=1, label=f"data: {name}")
        axis.set_title(task, fontsize=9)
        axis.set_xlabel("minutes of extraction", fontsize=8)
        if returns.min() >= 0:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=7)
    with atomic_write(file) as stream:
        figure.savefig(stream, dpi=110, format="png")
