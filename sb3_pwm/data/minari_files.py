"""Data sets on disk: finding them below a folder, and opening them with errors that name what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        raise FileNotFoundError(f"There is no Minari data set in or below {folder}.")
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
        from minari import MinariDataset
    except ImportError as error:
        raise ImportError("Data sets need Minari: pip install 'sb3-pwm[minari]'.") from error
    path = Path(path)
    metadata = read_metadata(path)
    # The metadata name their format; the files of the common one can be checked here.
    file = path / "data" / "main_data.hdf5"
    if metadata["data_format"] == "hdf5":
        import h5py

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
