"""Devices and threads of torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th


def check_device(device: th.device | str) -> None:
    """
    Check that a device exists on this machine.

    :param device: Device, or ``"auto"``.
    :raises ValueError: If the device does not exist.
    """
    if str(device) == "auto":
        return
    try:
        parsed = th.device(device)
    except RuntimeError:
        parsed = None
    n_gpus = th.cuda.device_count()
    if parsed is None or (parsed.type == "cuda" and (parsed.index or 0) >= n_gpus):
        raise ValueError(
            f"device must be auto, cpu, or a GPU of this machine, such as cuda:0, got {str(device)!r}. torch finds "
            f"{n_gpus or 'no'} GPU{'' if n_gpus == 1 else 's'} here."
        )


@contextmanager
def threads_of_torch(number: int) -> Iterator[None]:
    """
    Let torch compute with a number of threads within a block. Afterwards the process has the number that it had.

    :param number: Number of threads of an operation.
    """
    before = th.get_num_threads()
    th.set_num_threads(number)
    try:
        yield
    finally:
        th.set_num_threads(before)
