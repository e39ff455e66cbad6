"""Atomic writing of files."""

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
    Write a file atomically. An existing file is replaced when the block ends without an error, and kept otherwise.

    Missing folders are created. If ``path`` is a link, the file that it points to is replaced. Permissions of an
    existing file are kept.

    :param path: The file.
    :return: Open binary file to write the content to.
    :raises OSError: If the file cannot be written. The message names it.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(path.parent)
    # In the same folder, because a rename is atomic within one file system only. Not with mkstemp, which gives no
    # permissions to the group and to others.
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
        # A RuntimeError of torch names a line of torch's code. The reason is the error that it was raised from.
        reason = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(reason, OSError):
            raise
        if reason.errno is not None and reason.filename in (None, str(temporary)):
            reason.filename = str(path)  # the caller does not know the temporary file
        raise reason from None


def _lock(file: BinaryIO) -> bool:
    """
    Lock a file until it is closed or this process ends.

    :param file: Open file.
    :return: Whether the file is locked. If not, another process writes to it, or the file system has no locks.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder: each can have the size of a checkpoint."""
    for unfinished in folder.glob(f".{'[0-9a-f]' * 32}.unfinished"):
        with suppress(OSError), unfinished.open("rb") as file:
            # A younger file may exist already and not be locked yet.
            if time.time() - os.fstat(file.fileno()).st_mtime > 60.0 and _lock(file):
                unfinished.unlink()


def with_suffix(path: str | Path, suffix: str) -> Path:
    """
    Append a suffix to a path that has none.

    :param path: The path.
    :param suffix: The suffix, with its dot.
    :return: The path with the suffix, or the same path if it has any suffix.
    """
    path = Path(path)
    return path if path.suffix else Path(f"{path}{suffix}")
