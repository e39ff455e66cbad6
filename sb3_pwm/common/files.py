"""Files that are whole or not there."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """
    Write a file that takes its place only when the block has ended well; until then an older one stays as it was.

    :param path: The file; folders are made as needed.
    :return: Where to write, open and binary.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the rename is one step of one file system; mkstemp would make it its owner's only
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def with_suffix(path: str | Path, suffix: str) -> Path:
    """:param path: A file. :param suffix: With its dot. :return: The path, with the suffix if it had none at all."""
    path = Path(path)
    return path if path.suffix else Path(f"{path}{suffix}")
