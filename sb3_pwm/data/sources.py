"""Record of what a stored data set was made of, so that it is not taken for other data."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_pwm.data.readers.minari import dataset_paths, read_metadata
from sb3_pwm.data.readers.replay_buffer import replay_buffer_file

# Bytes at the start and at the end of a file that tell it from others
_ENDS = 2**20


def record_sources(sources: Sequence[str | Path]) -> list[dict[str, Any]]:
    """
    Record sources of data, to recognize them later.

    :param sources: Minari ids or folders, files of TD-MPC2 or folders of them, or files of replay buffers.
    :return: For each source its name, its path, and name and fingerprint of each data set or file in it.
    :raises FileNotFoundError: If a source does not exist.
    :raises ValueError: If a file is damaged.
    """
    return [_describe(source) for source in sources]


def check_sources(recorded: Any, sources: Sequence[str | Path], folder: Path) -> None:
    """
    Check that a stored data set was made of given sources.

    A source that does not exist anymore is taken to be the recorded one of its name. If there is no record, because an
    older version has stored the data or :meth:`OfflineDataset.save` has, there is a warning.

    :param recorded: Record from :func:`record_sources`; None if there is no record.
    :param sources: The sources.
    :param folder: Folder of the stored data set, for messages.
    :raises ValueError: If it was made of others, or one has changed. The message says which.
    """
    if recorded is None:
        warnings.warn(
            f"{folder} does not say what it was made of, and is used as it is: delete it to store the data anew."
        )
        return
    known = {source[name]: source for source in recorded for name in ("path", "source")}
    now: list[dict[str, Any]] = []
    for source in sources:
        try:
            now.append(_describe(source))
        except FileNotFoundError as error:
            former = known.get(str(source), known.get(str(_split(source)[1].resolve())))
            if former is None:
                raise ValueError(
                    f"{source} does not exist, and {folder} was not made of it, but of "
                    f"{', '.join(each['source'] for each in recorded)}: give these, or another folder to store data in."
                ) from error
            now.append(former)
    stored, given = ({tuple(part) for source in each for part in source["content"]} for each in (recorded, now))
    if stored == given:
        return
    stored_names, given_names = ({name for name, _ in each} for each in (stored, given))
    reasons = [
        f"{verb} {', '.join(sorted(names))}"
        for verb, names in (
            ("it also holds", stored_names - given_names),
            ("it lacks", given_names - stored_names),
            ("it holds a former state of", {name for name, _ in stored ^ given} & stored_names & given_names),
        )
        if names
    ]
    raise ValueError(
        f"{folder} was made of other data, {'; '.join(reasons)}: give another folder to store data in, or delete "
        "this one."
    )


def _split(source: str | Path) -> tuple[str, Path]:
    """:return: What the names of files get in front, ``TASK=`` for a replay buffer, and the path of a source."""
    buffer = replay_buffer_file(source)
    return ("", Path(source)) if buffer is None else (f"{buffer.task}=", buffer.path)


def _describe(source: str | Path) -> dict[str, Any]:
    prefix, path = _split(source)
    if prefix and not path.is_file():
        raise FileNotFoundError(f"There is no replay buffer {path}.")
    chunks = [path] if path.is_file() else sorted(path.glob("*.pt"))
    if chunks:
        content = [[prefix + chunk.name, _fingerprint([chunk])] for chunk in chunks]
    else:
        content = [
            [read_metadata(found)["dataset_id"], _fingerprint(sorted((found / "data").rglob("*")))]
            for found in dataset_paths(source)
        ]
    return {"source": str(source), "path": str(path.resolve()), "content": content}


def _fingerprint(paths: Sequence[Path]) -> str:
    """:return: Digest of names, sizes and ends of the files among the paths. Unlike their times, a copy keeps it."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode())
            with path.open("rb") as file:
                digest.update(file.read(_ENDS))
                file.seek(max(size - _ENDS, 0))
                digest.update(file.read(_ENDS))
    return digest.hexdigest()
