"""Minari data sets on disk: finding them below a folder, opening them, and reading their episodes."""

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
    """:return: Where Minari looks for data sets: ``MINARI_DATASETS_PATH``, or its own folder."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def find_datasets(folder: str | Path) -> list[Path]:
    """
    :param folder: A data set's folder, or one with data sets anywhere below it.
    :return: The data sets' folders, by name; those being collected are none yet.
    :raises FileNotFoundError: If there is no such folder, or no data set below it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    # A data set that lost one of its two files is still one: it is to be named, not passed over.
    files = [*folder.rglob("data/metadata.json"), *folder.rglob("data/main_data.hdf5")]
    found = {file.parent.parent for file in files}
    datasets = sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))
    if not datasets:
        raise FileNotFoundError(
            f"There is no data set in {folder}: it has no {INDEX}, and no Minari data set is in or below it."
        )
    return datasets


def read_metadata(path: Path) -> dict[str, Any]:
    """
    :param path: A data set's folder.
    :return: What its metadata.json says, which is enough to list it; the episodes are not read.
    :raises ValueError: If it is not there or not a data set's; the message names the file.
    """
    file = path / "data" / "metadata.json"
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as a data set's metadata: {error}.") from error
    missing = [name for name in _FIELDS if not isinstance(metadata, dict) or name not in metadata]
    if missing:
        raise ValueError(f"{file} is not a Minari data set's metadata: it has no {', '.join(missing)}.")
    return metadata  # type: ignore[no-any-return]


def open_dataset(path: str | Path) -> MinariDataset:
    """
    :param path: A data set's folder, such as ``data/mt30/walker-walk-v0``.
    :return: The data set.
    :raises ImportError: If Minari is not installed.
    :raises ValueError: If a file of it is missing, damaged or not a data set's; the message names it.
    """
    try:
        from minari import MinariDataset  # an extra
    except ImportError as error:
        raise ImportError("Data sets need Minari: pip install 'sb3-pwm[minari]'.") from error
    path = Path(path)
    metadata = read_metadata(path)
    # The metadata name their format; the files of the common one can be checked here.
    file = path / "data" / "main_data.hdf5"
    if metadata["data_format"] == "hdf5":
        import h5py  # comes with Minari

        try:
            with h5py.File(file) as content:
                present = sum(name.startswith("episode_") for name in content)
        except OSError as error:
            raise ValueError(f"{file} is damaged or no data set's: {error}.") from error
        if present != metadata["total_episodes"]:
            raise ValueError(f"{file} holds {present} episodes, its metadata.json says {metadata['total_episodes']}.")
    try:
        return MinariDataset(path / "data")
    except Exception as error:  # of its readers' own kinds
        raise ValueError(f"{path} cannot be opened as a Minari data set: {error}.") from error


def iterate_episodes(dataset: MinariDataset, path: str | Path) -> Iterator[EpisodeData]:
    """
    :param dataset: See :func:`open_dataset`.
    :param path: Its folder, for messages.
    :return: Its episodes, one after the other.
    :raises ValueError: If one cannot be read; the message names it.
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
    :param ids_or_paths: See :meth:`~sb3_pwm.data.dataset.OfflineDataset.from_minari`.
    :return: The episodes, with actions scaled to [-1, 1].
    :raises FileNotFoundError: If there is no such data set.
    :raises ImportError: If Minari is not installed.
    :raises ValueError: If a file is damaged or foreign, or its spaces are not flat boxes; the message names it.
    """
    for each in ids_or_paths:
        local = default_folder() / each
        for path in find_datasets(each if Path(each).is_dir() or not local.is_dir() else local):
            yield from _minari_episodes(path)


def _minari_episodes(path: Path) -> Iterator[SourceEpisode]:
    dataset = open_dataset(path)
    for name, space in (("observations", dataset.observation_space), ("actions", dataset.action_space)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"{path} has {name} of {space}: only flat boxes can be used.")
    low, high = dataset.action_space.low, dataset.action_space.high  # type: ignore[attr-defined]
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"{path} has actions without bounds, which cannot be scaled to [-1, 1].")
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
