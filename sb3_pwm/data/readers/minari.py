"""Reader of Minari data sets on disk."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sb3_pwm.common.actions import scale_actions
from sb3_pwm.data.cleaning import ROUNDING, as_numbers, check_continuous
from sb3_pwm.data.flattening import check_can_be_flattened, flatten_observations
from sb3_pwm.data.readers.minari_tasks import task_names
from sb3_pwm.data.storage import INDEX
from sb3_pwm.data.types import Episode, SourceEpisode

if TYPE_CHECKING:
    from minari import EpisodeData, MinariDataset

_FIELDS = ("dataset_id", "total_episodes", "total_steps", "data_format")


def default_folder() -> Path:
    """:return: Folder in which Minari looks for data sets: ``MINARI_DATASETS_PATH``, or its own default."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def find_datasets(folder: str | Path) -> list[Path]:
    """
    Find data sets in a folder and below it. Data sets that are still being collected are left out.

    :param folder: Folder of a data set, or of several data sets at any depth.
    :return: Folders of the data sets, sorted by name.
    :raises FileNotFoundError: If the folder does not exist, or there is no data set in or below it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    # A data set with only one of its two files is damaged. It is listed, so that reading it gives an error.
    files = [*folder.rglob("data/metadata.json"), *folder.rglob("data/main_data.hdf5")]
    found = {file.parent.parent for file in files}
    datasets = sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))
    if not datasets:
        remedy = " For its TD-MPC2 files, give the .pt files themselves." if any(folder.glob("*.pt")) else ""
        raise FileNotFoundError(
            f"There is no data set in {folder}: it has no {INDEX}, and no Minari data set is in or below it.{remedy}"
        )
    return datasets


def read_metadata(path: Path) -> dict[str, Any]:
    """
    Read the metadata of a data set. The episodes are not read.

    :param path: Folder of the data set.
    :return: Content of its metadata.json.
    :raises ValueError: If the file is missing or is not the metadata of a data set. The message names the file.
    """
    file = path / "data" / "metadata.json"
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as the metadata of a data set: {error}.") from error
    missing = [name for name in _FIELDS if not isinstance(metadata, dict) or name not in metadata]
    if missing:
        raise ValueError(f"{file} is not the metadata of a Minari data set: it has no {', '.join(missing)}.")
    return metadata  # type: ignore[no-any-return]


def open_dataset(path: str | Path) -> MinariDataset:
    """
    Open a data set.

    :param path: Folder of the data set, such as ``data/mt30/walker-walk-v0``.
    :return: The data set.
    :raises ImportError: If Minari is not installed.
    :raises ValueError: If a file of the data set is missing or damaged. The message names the file.
    """
    try:
        from minari import MinariDataset  # Minari is an optional package
    except ImportError as error:
        raise ImportError("Data sets need Minari: pip install 'sb3-pwm[minari]'.") from error
    path = Path(path)
    metadata = read_metadata(path)
    # Data sets of other formats have other files, which only Minari can check.
    file = path / "data" / "main_data.hdf5"
    if metadata["data_format"] == "hdf5":
        import h5py  # h5py is installed with Minari

        try:
            with h5py.File(file) as content:
                present = sum(name.startswith("episode_") for name in content)
        except OSError as error:
            raise ValueError(f"{file} is damaged, or is not the file of a data set: {error}.") from error
        if present != metadata["total_episodes"]:
            raise ValueError(
                f"{file} holds {present} episodes, but its metadata.json says {metadata['total_episodes']}."
            )
    try:
        return MinariDataset(path / "data")
    except Exception as error:  # each of Minari's formats raises errors of other kinds
        raise ValueError(f"{path} cannot be opened as a Minari data set: {error}.") from error


def iterate_episodes(dataset: MinariDataset, path: str | Path) -> Iterator[EpisodeData]:
    """
    Read the episodes of a data set, one at a time.

    :param dataset: The data set, from :func:`open_dataset`.
    :param path: Folder of the data set, for messages.
    :return: Iterator of the episodes.
    :raises ValueError: If an episode cannot be read. The message names the episode.
    """
    episodes = dataset.iterate_episodes()
    for number in range(dataset.total_episodes):
        try:
            episode = next(episodes)
        except Exception as error:  # OSError, KeyError and others, by what is damaged
            raise ValueError(f"Episode {number} of {path} cannot be read: {error}.") from error
        yield episode


def dataset_paths(id_or_path: str | Path) -> list[Path]:
    """
    Find the data sets that an id or a folder stands for.

    :param id_or_path: Id or folder, see :meth:`~sb3_pwm.data.dataset.OfflineDataset.from_minari`.
    :return: Folders of the data sets.
    :raises FileNotFoundError: If there is none. The message says how to get it.
    """
    local = default_folder() / id_or_path
    if Path(id_or_path).exists() or local.is_dir():
        return find_datasets(id_or_path if Path(id_or_path).is_dir() or not local.is_dir() else local)
    if re.fullmatch(r"(?!/)[\w./-]+-v\d+", str(id_or_path)):
        raise FileNotFoundError(
            f"There is no folder {id_or_path}, and {default_folder()} has no Minari data set of this id: "
            f"`minari download {id_or_path}` gets it if it is public."
        )
    raise FileNotFoundError(f"There is no folder {id_or_path}.")


def minari_episodes(ids_or_paths: Sequence[str | Path]) -> Iterator[SourceEpisode]:
    """
    Read the episodes of Minari data sets.

    :param ids_or_paths: Ids or folders, see :meth:`~sb3_pwm.data.dataset.OfflineDataset.from_minari`.
    :return: Iterator of the episodes, with flat observations and with actions scaled to [-1, 1].
    :raises FileNotFoundError: If a data set does not exist.
    :raises ImportError: If Minari is not installed.
    :raises ValueError: If a file is damaged, or a space of a data set cannot be used. The message names the file.
    """
    paths = [path for each in ids_or_paths for path in dataset_paths(each)]
    metadata = [read_metadata(path) for path in paths]
    for path, task, each in zip(paths, task_names(metadata), metadata, strict=True):
        yield from _minari_episodes(path, task, each.get("observation_space"))


def _minari_episodes(path: Path, task: str, stored: str | None) -> Iterator[SourceEpisode]:
    """:param stored: Observation space in the metadata, as JSON; None if it has none."""
    dataset = open_dataset(path)
    check_can_be_flattened(dataset.observation_space, str(path))
    observation_space = _in_stored_order(dataset.observation_space, None if stored is None else json.loads(stored))
    bounds = _ActionBounds(dataset.action_space, path)
    for number, episode in enumerate(iterate_episodes(dataset, path)):
        where = f"episode {number} of {path}"
        terminations, truncations = (
            as_numbers(f"The flags of {where}", flags) > 0.0 for flags in (episode.terminations, episode.truncations)
        )
        yield from _parts(
            task,
            flatten_observations(observation_space, episode.observations, where),
            bounds.scale(np.asarray(episode.actions), where),
            as_numbers(f"The rewards of {where}", episode.rewards),
            terminations,
            truncations,
            where,
        )
    bounds.warn()


def _in_stored_order(space: spaces.Space[Any], stored: Any) -> spaces.Space[Any]:
    """
    Restore the order of the entries of a ``Dict``, which Minari sorts by name.

    :param space: Space that Minari has read.
    :param stored: What Minari has stored of it. None: nothing.
    :return: Space that is flattened as the environment's own.
    """
    if stored is not None and isinstance(space, spaces.Dict):
        return spaces.Dict([(key, _in_stored_order(space[key], part)) for key, part in stored["subspaces"].items()])
    if stored is not None and isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, stored["subspaces"], strict=True)
        return spaces.Tuple([_in_stored_order(*pair) for pair in parts])
    return space


class _ActionBounds:
    """
    Bounds that actions are scaled from.

    :param space: Action space of a data set.
    :param path: Folder of the data set, for messages.
    :raises ValueError: If the space is not a ``Box`` with finite bounds.
    """

    def __init__(self, space: spaces.Space[Any], path: Path):
        self.path = path
        check_continuous(space, str(path))
        assert isinstance(space, spaces.Box)
        self.space = space
        self.low, self.high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
        self.n_actions, self.n_outside, self.furthest = 0, 0, 0.0

    def scale(self, actions: NDArray[Any], where: str) -> NDArray[np.float64]:
        """
        Scale actions, and clip those that are outside the bounds.

        :param actions: Actions ``(T, *)``.
        :param where: File and number of the episode, for messages.
        :return: Scaled actions ``(T, A)``. NaN and infinity are kept, so that they are refused.
        :raises ValueError: If the actions are not of the shape of the space.
        """
        if actions.size != len(actions) * len(self.low):
            raise ValueError(f"{where} has actions of the shape {actions.shape[1:]}, not {self.space.shape}.")
        actions = actions.reshape(-1, *self.space.shape)
        scaled = scale_actions(self.space, actions).reshape(len(actions), -1)
        actions = actions.reshape(len(actions), -1).astype(np.float64)
        distance = np.maximum(self.low - actions, actions - self.high)
        rounding = ROUNDING * (self.high - self.low) / 2 + 1e-6 * np.maximum(np.abs(self.low), np.abs(self.high))
        finite = np.isfinite(actions)
        outside = finite & (distance > rounding)
        self.n_actions += len(actions)
        self.n_outside += int(outside.any(axis=1).sum())
        self.furthest = max(self.furthest, float(distance[outside].max(initial=0.0)))
        return np.where(finite, np.clip(scaled, -1.0, 1.0), actions)

    def warn(self) -> None:
        """Warn if actions were outside the bounds."""
        if self.n_outside:
            warnings.warn(
                f"{self.n_outside:,} of {self.n_actions:,} actions of {self.path} lie outside the bounds of the action "
                f"space, by up to {self.furthest:g}: they were clipped to the bounds, as an environment does."
            )


def _parts(
    task: str,
    observations: NDArray[Any],
    actions: NDArray[Any],
    rewards: NDArray[Any],
    terminations: NDArray[np.bool_],
    truncations: NDArray[np.bool_],
    where: str,
) -> Iterator[SourceEpisode]:
    """:return: The episode. If it ends and goes on, each part is one."""
    n_steps = len(rewards)
    sizes = (len(observations) - 1, len(actions), len(terminations), len(truncations))
    if any(size != n_steps for size in sizes):
        raise ValueError(
            f"{where} has {sizes[0] + 1} observations, {sizes[1]} actions, {n_steps} rewards, {sizes[2]} terminations "
            f"and {sizes[3]} truncations; there must be one observation more than the others."
        )
    ends = {*(np.flatnonzero(terminations | truncations) + 1).tolist(), n_steps}
    for first, end in pairwise([0, *sorted(ends)]):
        steps = slice(first, end)
        part = Episode(
            observations[first : end + 1], actions[steps], rewards[steps], bool(n_steps and terminations[end - 1])
        )
        yield SourceEpisode(task, part, where if len(ends) == 1 else f"steps {first} to {end - 1} of {where}")
