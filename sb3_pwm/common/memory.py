"""Running out of memory, said so that a user knows what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th


@contextmanager
def explain_out_of_memory(what: str, advice: str) -> Iterator[None]:
    """
    Turn any form of "out of memory", of the host or of a device, into one that names the knob to turn.

    :param what: What the block does, as a noun phrase.
    :param advice: What to lower or move, as an imperative.
    :raises MemoryError: In place of numpy's and torch's errors of this kind; others pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On the host torch raises a plain RuntimeError, known by its allocator's name only.
        kinds = (MemoryError, th.OutOfMemoryError)
        if not isinstance(error, kinds) and "DefaultCPUAllocator" not in str(error):
            raise
        reason = (str(error).strip().splitlines() or ["no details"])[0]
        raise MemoryError(f"Out of memory: {what} does not fit. {advice} ({reason})") from error
