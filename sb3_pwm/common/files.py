"""Files that are whole or not there."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """
    Write a file that takes its place only when the block has ended well; until then an older one stays as it was.

    :param path: The file; folders are made as needed. A link stays one, and an older file's permissions stay.
    :return: Where to write, open and binary.
    :raises OSError: If it cannot be written; the message names the file.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the rename is one step of one file system; mkstemp would make it its owner's only
    temporary = path.with_name(f".{uuid.uuid4().hex}.unfinished")
    try:
        with temporary.open("xb") as file:
            if path.is_file():
                shutil.copymode(path, temporary)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch says where in its own code it failed to write; why is in what came before.
        reason = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(reason, OSError):
            raise
        if reason.errno is not None and reason.filename in (None, str(temporary)):
            reason.filename = str(path)  # the file that the caller knows
        raise reason from None


def with_suffix(path: str | Path, suffix: str) -> Path:
    """:param path: A file. :param suffix: With its dot. :return: The path, with the suffix if it had none at all."""
    path = Path(path)
    return path if path.suffix else Path(f"{path}{suffix}")
