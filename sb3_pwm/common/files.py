"""Files that are whole or not there."""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """
    Write a file that takes its place only when the block has ended well; until then an older one stays as it was.

    :param path: The file; folders are made as needed. A link stays one, and an older file's permissions stay.
    :return: Where to write, open and binary.
    :raises OSError: If it cannot be written; the message names the file.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_remains(path.parent)
    # In the same folder, so that the rename is one step of one file system; mkstemp would make it its owner's only
    temporary = path.with_name(f".{uuid.uuid4().hex}.unfinished")
    try:
        with temporary.open("xb") as file:
            _lock(file)
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


def _lock(file: BinaryIO) -> bool:
    """Whether nobody else is writing to a file. It is ours then until it is closed, or this process is no more."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody has it, or the file system knows no locks
        return False
    return True


def _remove_remains(folder: Path) -> None:
    """Remove what processes that were killed had begun to write in a folder: a checkpoint's size each."""
    for remains in folder.glob(f".{'[0-9a-f]' * 32}.unfinished"):
        with suppress(OSError), remains.open("rb") as file:
            # One of the last minute may be about to be locked.
            if time.time() - os.fstat(file.fileno()).st_mtime > 60.0 and _lock(file):
                remains.unlink()


def with_suffix(path: str | Path, suffix: str) -> Path:
    """:param path: A file. :param suffix: With its dot. :return: The path, with the suffix if it had none at all."""
    path = Path(path)
    return path if path.suffix else Path(f"{path}{suffix}")
