"""Processes of a pretraining run, which torchrun starts."""

import dataclasses
import os

import torch as th
import torch.distributed as dist

from sb3_pwm.common.devices import check_device


@dataclasses.dataclass(frozen=True)
class DistributedContext:
    """
    Place of this process among the processes of a run.

    :param rank: Index of this process.
    :param size: Number of processes.
    :param device: Device of this process.
    """

    rank: int
    size: int
    device: th.device

    @property
    def first(self) -> bool:
        """Whether this process is the first one, which writes the files."""
        return self.rank == 0


def join_processes(device: th.device | str = "auto") -> DistributedContext:
    """
    Join the processes that torchrun has started. Without torchrun, this process is alone.

    :param device: Device of this process. ``"auto"``: the GPU of the same index as this process, or the CPU if there is
        no GPU.
    :return: Place of this process among the processes.
    :raises ValueError: If the device does not exist.
    """
    check_device(device)
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if str(device) == "auto":
        device = f"cuda:{local_rank}" if th.cuda.is_available() else "cpu"
    device = th.device(device)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return DistributedContext(0, 1, device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        th.cuda.set_device(device)
    return DistributedContext(dist.get_rank(), dist.get_world_size(), device)


def is_first_process() -> bool:
    """:return: Whether this process is the first of those of torchrun, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0
