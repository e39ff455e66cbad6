"""Description of data sets: a table, and a picture of the episodes' returns. It is also ``sb3-pwm describe``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from sb3_pwm.common.commands import POSITIONAL, run_command
from sb3_pwm.common.files import atomic_write, with_suffix
from sb3_pwm.common.packaged import data_source
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.data.readers.minari import dataset_paths, default_folder, iterate_episodes, open_dataset
from sb3_pwm.data.storage import INDEX
from sb3_pwm.data.types import TaskData

QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclasses.dataclass(frozen=True)
class Description:
    """
    Content of a data set.

    :param dataset_id: Id of the data set, such as ``"mt30/walker-walk-v0"``, or name of the task.
    :param returns: Return of each episode, ``(episodes,)``.
    :param steps: Number of agent steps of all episodes.
    :param observation_dim: Size of an observation. One of a ``Dict`` is flattened, and a discrete one is one-hot.
    :param action_dim: Size of an action. A discrete one is one-hot.
    :param success: Whether each episode had a success at any step. Episodes that do not say it are left out. None if no
        episode says it.
    :param size: Number of bytes on disk, or of the arrays of a task.
    :param behaviors: Behaviors that acted, as ``sb3-pwm collect`` writes them. Empty if they are unknown.
    """

    dataset_id: str
    returns: NDArray[np.float64]
    steps: int
    observation_dim: int
    action_dim: int
    success: NDArray[np.bool_] | None
    size: int
    behaviors: str


def describe(path: str | Path) -> Description:
    """
    Read a Minari data set.

    :param path: Folder of the data set.
    :return: Content of the data set.
    :raises ImportError: If Minari is not installed.
    :raises ValueError: If a file is missing, damaged or not of a data set, or a reward is not finite. The message names
        the file, or the step and the episode.
    """
    path = Path(path)
    dataset = open_dataset(path)
    returns, successes, steps = [], [], 0
    for number, episode in enumerate(iterate_episodes(dataset, path)):
        rewards = np.asarray(episode.rewards, np.float64)
        if not np.isfinite(rewards).all():
            step = int(np.argmin(np.isfinite(rewards)))
            raise ValueError(f"The reward of step {step} of episode {number} of {path} is {rewards[step]}.")
        returns.append(rewards.sum())
        steps += len(rewards)
        success = _success(episode.infos)
        if success is not None:
            successes.append(success)
    return Description(
        str(dataset.spec.dataset_id),
        np.array(returns),
        steps,
        spaces.flatdim(dataset.observation_space),
        spaces.flatdim(dataset.action_space),
        np.array(successes) if successes else None,
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        str(dataset.storage.metadata.get("behaviors", "")),
    )


def _success(infos: Any) -> bool | None:
    """:return: Whether an episode had a success at any step. None if its infos, if it has any, do not say it."""
    success = infos.get("success") if isinstance(infos, dict) else None
    if success is None or isinstance(success, dict):
        return None
    values = np.asarray(success)
    if values.size == 0 or values.dtype.kind not in "biuf" or np.isnan(values).any():  # NaN: of a replay buffer
        return None
    return bool(values.max() > 0)


def describe_sources(sources: Sequence[str | Path]) -> list[Description]:
    """
    Read data of any kind that :meth:`~sb3_pwm.OfflineDataset.load` opens.

    :param sources: Minari ids or folders, folders of stored data sets, files of TD-MPC2, or replay buffers (.pkl).
    :return: A description of each Minari data set, and of each task of other data. The size of a task is that of its
        arrays, as ``OfflineDataset.save`` writes them.
    :raises FileNotFoundError: If a source does not exist.
    :raises ImportError: If Minari is needed and is not installed.
    :raises ValueError: If a file is damaged. The message names the file.
    """
    found: list[Description] = []
    paths: list[Path] = []
    for source in map(data_source, sources):
        if (Path(source) / INDEX).is_file() or Path(source).suffix in (".pt", ".pkl"):
            found += [_describe_task(task) for task in OfflineDataset.load(source).data]
        else:
            paths += dataset_paths(source)
    return found + [describe(path) for path in tqdm(paths, unit="data set", disable=None, leave=False)]


def _describe_task(task: TaskData) -> Description:
    return Description(
        task.name,
        task.returns.astype(np.float64),
        int(task.lengths.sum()),
        task.observations.shape[1],
        task.actions.shape[1],
        None,
        sum(array.nbytes for array in (task.observations, task.actions, task.rewards)),
        "",
    )


def table(descriptions: Sequence[Description]) -> str:
    """
    Make a table of data sets.

    :param descriptions: Descriptions of the data sets.
    :return: The table, with one line per data set and a last line of totals.
    """
    width = max([len(row.dataset_id) for row in descriptions] + [len("data set")])
    quantiles = " ".join(f"{name:>8}" for name in ("min", "10%", "median", "90%", "max"))
    lines = [
        f"{'data set':{width}} {'obs':>4} {'act':>4} {'episodes':>8} {'steps':>10} {'mean':>8} {quantiles} "
        f"{'success':>7} {'MiB':>7}"
    ]
    for row in descriptions:
        values = " ".join(f"{value:8.1f}" for value in np.quantile(row.returns, QUANTILES))
        success = "-" if row.success is None else f"{row.success.mean():.0%}"
        lines.append(
            f"{row.dataset_id:{width}} {row.observation_dim:4} {row.action_dim:4} {len(row.returns):8,} "
            f"{row.steps:10,} {row.returns.mean():8.1f} {values} {success:>7} {row.size / 2**20:7.1f}"
        )
    episodes, steps = sum(len(row.returns) for row in descriptions), sum(row.steps for row in descriptions)
    size = sum(row.size for row in descriptions) / 2**20
    total = f"{len(descriptions)} data sets"
    lines.append(f"{total:{width}} {'':4} {'':4} {episodes:8,} {steps:10,} {'':62} {size:7.1f}")
    return "\n".join(lines)


def plot(descriptions: Sequence[Description], out: Path, columns: int = 8) -> None:
    """
    Draw a histogram of the returns of each data set.

    :param descriptions: Descriptions of the data sets.
    :param out: File of the picture, a PNG.
    :param columns: Largest number of histograms in a row.
    """
    columns = min(columns, len(descriptions))
    n_rows = -(-len(descriptions) // columns)
    figure = Figure(figsize=(2.1 * columns, 1.6 * n_rows))
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, columns, squeeze=False)
    for ax in axes.flat[len(descriptions) :]:
        ax.axis("off")
    for ax, row in zip(axes.flat, descriptions, strict=False):
        ax.hist(row.returns, bins=20, color="tab:blue")
        name = re.sub(r"-v\d+$", "", row.dataset_id.rpartition("/")[2])
        success = "" if row.success is None else f", {row.success.mean():.0%} success"
        ax.set_title(f"{name}\n{len(row.returns)} episodes{success}", fontsize=7)
        ax.tick_params(labelsize=6)
        ax.set_yticks([])
        for side in ("top", "right", "left"):
            ax.spines[side].set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("return", fontsize=7)
    figure.tight_layout(pad=0.5)
    with atomic_write(out) as file:
        figure.savefig(file, dpi=110, format="png")


@dataclasses.dataclass(frozen=True)
class Describe:
    """
    Show what data sets hold: a table, and a picture of the episodes' returns.

    :param folders: Folders of data sets, folders with data sets at any depth, Minari ids, files of TD-MPC2, replay
        buffers (.pkl), or names of world models that come with the package. Default: the folder of Minari.
    :param out: File of the picture, a PNG.
    """

    folders: tuple[Path, ...] = dataclasses.field(default=(), metadata=POSITIONAL)
    out: Path = Path("returns.png")

    def run(self) -> None:
        """
        Print the table and draw the picture.

        :raises FileNotFoundError: If there is no data set.
        :raises ValueError: If a data set is damaged.
        """
        descriptions = describe_sources(self.folders or (default_folder(),))
        out = with_suffix(self.out, ".png")
        plot(descriptions, out)
        print(table(descriptions))
        print(f"Written: {out}")


if __name__ == "__main__":
    run_command(Describe, "sb3-pwm describe")
