"""Pictures of timings in JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from timing.tables import NAMES, SIZES, read


def plot(out: Path) -> list[Path]:
    """
    Draw the time of an update over the sizes of model, batch and horizon, and the speed over the environments.

    :param out: Folder of the JSON files.
    :return: The pictures, ``scaling-<device>.png``.
    """
    pictures = []
    for device in ("cpu", "cuda"):
        updates, learning = (
            pd.DataFrame([row for path in sorted(out.glob(f"{kind}-{device}*.json")) for row in read(path)["results"]])
            for kind in ("updates", "learn")
        )
        if not len(updates):
            continue
        with sns.axes_style("whitegrid"):
            figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
            plain = updates[~updates["compile"] & ~updates["gradient_checkpointing"]]
            draw_updates(axes.flat, plain[plain["precision"] == "float32"])
            if len(learning):
                draw_learning(axes[1, 1], learning[learning["overlap"] & ~learning["compile"]])
        pictures.append(out / f"scaling-{device}.png")
        figure.savefig(pictures[-1], dpi=110)
        plt.close(figure)
    return pictures


def draw_updates(axes: Any, updates: pd.DataFrame) -> None:
    """Draw the median milliseconds per update over the size of the model, the batch size and the horizon."""
    reference: dict[str, Any] = {"size": "5M", "batch": 64, "horizon": 16}
    columns = {f"{prefix}{name}_ms": f"{label}, {who}" for name, label in NAMES.items()
               for prefix, who in (("", "PWM"), ("plain_", "plain reference"))}  # fmt: skip
    long = updates.melt([*reference], [c for c in columns if c in updates], "measured", "milliseconds")
    long["measured"] = long["measured"].map(columns)
    for ax, varied in zip(axes, reference, strict=False):
        fixed = {key: value for key, value in reference.items() if key != varied}
        chosen = long[(long[[*fixed]] == pd.Series(fixed)).all(axis=1)]
        order = [size for size in SIZES if size in set(chosen[varied])] if varied == "size" else None
        values = order or [str(value) for value in sorted(set(chosen[varied]))]
        chosen = chosen.assign(**{varied: pd.Categorical(chosen[varied].astype(str), values, ordered=True)})
        if len(chosen):
            sns.lineplot(
                chosen, x=varied, y="milliseconds", hue="measured", style="measured", markers=True,
                estimator="median", errorbar=None, ax=ax,
            )  # fmt: skip
        others = ", ".join(f"{key} {value}" for key, value in fixed.items())
        ax.set(ylabel="milliseconds per update", yscale="log", title=f"{varied} ({others})")


def draw_learning(ax: Any, learning: pd.DataFrame) -> None:
    """Draw environment steps per second of ``learn()`` over the number of environments."""
    places = {False: "environments in the learner's process", True: "environments in processes of their own"}
    sns.lineplot(
        learning.assign(place=learning["subprocesses"].map(places)),
        x="n_envs", y="steps_per_second", hue="place", marker="o", estimator="median", errorbar=None, ax=ax,
    )  # fmt: skip
    ax.set(xlabel="environments", ylabel="environment steps per second", title="learn(), one update per step")
    ax.set_ylim(bottom=0)
