"""This process among those that torchrun has started."""

import dataclasses
import os

import torch as th
import torch.distributed as dist


@dataclasses.dataclass(frozen=True)
class DistributedContext:
    """
    This context among those of torchrun; alone without it.

    :param rank: Its number.
    :param size: How many there are.
    :param device: Its device.
    """

    rank: int
    size: int
    device: th.device

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0


def join_processes(device: th.device | str = "auto") -> DistributedContext:
    """
    :param device: ``"auto"``: this context's GPU where there is one, else the CPU.
    :return: This context, in torchrun's group where torchrun has started it.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    if str(device) == "auto":
        device = f"cuda:{local}" if th.cuda.is_available() else "cpu"
    device = th.device(device)
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return DistributedContext(0, 1, device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        th.cuda.set_device(device)
    return DistributedContext(dist.get_rank(), dist.get_world_size(), device)


def is_first_process() -> bool:
    """:return: Whether this process is the first one of torchrun's, or the only one. The first one writes."""
    return int(os.environ.get("RANK", 0)) == 0
