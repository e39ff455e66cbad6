"""Errors of running out of memory that say what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th


@contextmanager
def explain_out_of_memory(what: str, advice: str) -> Iterator[None]:
    """
    Replace an error of running out of memory, on the host or on a device, by one that says what to change.

    :param what: Noun phrase for what needs the memory: ``"a replay buffer on cuda"``.
    :param advice: Sentence that says what to change: ``"Lower buffer_size."``
    :raises MemoryError: If the block runs out of memory. Other errors are not caught.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Out of host memory, torch raises a plain RuntimeError. Only the allocator's name in it tells the reason.
        kinds = (MemoryError, th.OutOfMemoryError)
        if not isinstance(error, kinds) and "DefaultCPUAllocator" not in str(error):
            raise
        reason = (str(error).strip().splitlines() or ["no details"])[0]
        raise MemoryError(f"Out of memory: {what} does not fit. {advice} ({reason})") from error
