"""Reader of Minari data sets on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

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


def minari_episodes(ids_or_paths: Sequence[str | Path]) -> Iterator[SourceEpisode]:
    """
    Read the episodes of Minari data sets.

    :param ids_or_paths: Ids or folders, see :meth:`~sb3_pwm.data.dataset.OfflineDataset.from_minari`.
    :return: Iterator of the episodes, with actions scaled to [-1, 1].
    :raises FileNotFoundError: If a data set does not exist.
    :raises ImportError: If Minari is not installed.
    :raises ValueError: If a file is damaged, or a space of a data set is no flat box. The message names the file.
    """
    for each in ids_or_paths:
        local = default_folder() / each
        for path in find_datasets(each if Path(each).is_dir() or not local.is_dir() else local):
            yield from _minari_episodes(path)


def _minari_episodes(path: Path) -> Iterator[SourceEpisode]:
    dataset = open_dataset(path)
    for name, space in (("observations", dataset.observation_space), ("actions", dataset.action_space)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"{path} has {name} of {space}: only a Box with one dimension can be used.")
    low, high = dataset.action_space.low, dataset.action_space.high  # type: ignore[attr-defined]
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"{path} has actions without bounds, so that they cannot be scaled to [-1, 1].")
    center, half_range = (high + low) / 2, (high - low) / 2
    task = dataset.storage.metadata.get("task")
    if not isinstance(task, str):
        env_spec = dataset.spec.env_spec
        task = dataset.spec.dataset_name if env_spec is None else env_spec.id.lower()
    for number, episode in enumerate(iterate_episodes(dataset, path)):
        actions = (np.asarray(episode.actions, np.float32) - center) / half_range
        yield SourceEpisode(
            task,
            Episode(
                np.asarray(episode.observations, np.float32),
                actions.astype(np.float32),
                np.asarray(episode.rewards, np.float32),
                bool(episode.terminations[-1]) if len(episode.terminations) else False,
            ),
            f"episode {number} of {path}",
        )
