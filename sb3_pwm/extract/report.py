"""A report of normalized scores, beside the published ones."""

import warnings

import numpy as np

from sb3_pwm.extract.results import Results
from sb3_pwm.tasks import MT30, normalized_score, published_scores

BOOTSTRAP_SAMPLES = 2_000
PUBLISHED = {"pwm_48m": "PWM 48M, published", "tdmpc2": "TD-MPC2, published"}
"""Titles of the published methods, see :func:`~sb3_pwm.tasks.published_scores`"""


def make_report(results: Results, tag: str) -> str:
    """
    Make a Markdown report: mean, median and interquartile mean of the normalized scores over the tasks, with 95%
    stratified bootstrap intervals (Agarwal et al., arXiv 2108.13264), and the scores of each task. The published
    results of the same tasks are beside them.

    :param results: The results, see :func:`~sb3_pwm.extract.read_results`.
    :param tag: Name of the run that is reported.
    :return: The report. Tasks without a normalized score are left out, and named.
    :raises ImportError: If rliable is not installed.
    """
    scores, left_out = _scores(results, tag)
    lines = [f"# Normalized scores of {tag}", ""]
    if scores:
        published = published_scores("mt30" if scores.keys() <= set(MT30.tasks) else "mt80")
        lines += [*_aggregates(scores, published), "", *_tasks(scores, published)]
    else:
        lines.append("No task has a normalized score.")
    if left_out:
        lines += ["", f"Left out, because there is no normalized score: {', '.join(left_out)}."]
    return "\n".join(lines) + "\n"


def _scores(results: Results, tag: str) -> tuple[dict[str, list[float]], list[str]]:
    """:return: Scores of all seeds by task, and tasks without a score."""
    scores, left_out = {}, []
    for (task, of), group in results.items():
        if of != tag:
            continue
        last = [result["evaluations"][-1] for result in sorted(group, key=lambda result: result["seed"])]
        try:
            scores[task] = [normalized_score(task, row["return"], row.get("success")) for row in last]
        except ValueError:  # not of MT80
            left_out.append(task)
    return scores, left_out


def _aggregates(scores: dict[str, list[float]], published: dict[str, dict[str, float]]) -> list[str]:
    """:return: Lines of the table of aggregates, and an explanation."""
    try:
        # The extra "benchmarks"
        from rliable import library, metrics
    except ImportError as error:
        raise ImportError("The report needs rliable: pip install 'sb3-pwm[benchmarks]'.") from error

    def aggregate(matrix: np.ndarray) -> np.ndarray:  # (seeds, tasks)
        parts = metrics.aggregate_mean, metrics.aggregate_median, metrics.aggregate_iqm
        return np.array([part(matrix) for part in parts])

    n_seeds = min(map(len, scores.values()))
    ours = np.stack([values[:n_seeds] for values in scores.values()], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of rliable's own dependency, about the kind of generator
        points, intervals = library.get_interval_estimates(
            {"ours": ours}, aggregate, reps=BOOTSTRAP_SAMPLES, random_state=np.random.RandomState(0)
        )
    cells = [f"{value:.3f}" for value in points["ours"]]
    if n_seeds > 1:
        low, high = intervals["ours"]
        cells = [f"{cell} ({a:.3f} to {b:.3f})" for cell, a, b in zip(cells, low, high, strict=True)]
    lines = ["| | mean | median | interquartile mean |", "|---|---|---|---|", f"| this run | {' | '.join(cells)} |"]
    for method, title in PUBLISHED.items():
        values = aggregate(np.array([[published[task][method] for task in scores]]))
        lines.append(f"| {title} | {' | '.join(f'{value:.3f}' for value in values)} |")
    note = f"{len(scores)} tasks; all rows are of these tasks."
    if n_seeds < max(map(len, scores.values())):
        note += f" All tasks count with {n_seeds} seed{'s' * (n_seeds > 1)}, the fewest that a task has."
    note += " In parentheses: 95% bootstrap intervals." if n_seeds > 1 else " One seed, so there are no intervals."
    return [*lines, "", note]


def _tasks(scores: dict[str, list[float]], published: dict[str, dict[str, float]]) -> list[str]:
    """:return: Lines of the table of tasks."""
    lines = [f"| task | this run (each seed) | {' | '.join(PUBLISHED.values())} |", "|---|---|---|---|"]
    for task, values in scores.items():
        each = ", ".join(f"{value:.3f}" for value in values)
        theirs = " | ".join(f"{published[task][method]:.3f}" for method in PUBLISHED)
        lines.append(f"| {task} | **{np.mean(values):.3f}** ({each}) | {theirs} |")
    return lines
