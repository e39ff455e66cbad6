"""Mixed precision of the networks."""

import functools
from typing import Any

import torch as th

PRECISIONS = ("auto", "float32", "bfloat16")
"""Valid values of ``precision``"""

BFLOAT16_WIDTH = 512
"""Smallest width of a world model's networks for which bfloat16 saves time on a CPU that has it (docs/speed.md)"""


@functools.cache
def has_bfloat16_products() -> bool:
    """:return: Whether this machine's CPU multiplies in bfloat16 (AVX512-BF16 or AMX)."""
    capabilities: dict[str, Any] = getattr(th.cpu, "get_capabilities", dict)()  # older versions of torch do not tell
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def resolve_precision(precision: str, device: th.device, width: int) -> str:
    """
    Find out in which precision matrix products are computed.

    :param precision: One of :data:`PRECISIONS`.
    :param device: Device of the networks.
    :param width: Width of the world model's networks.
    :return: ``"float32"`` or ``"bfloat16"``. ``"auto"`` is bfloat16 on CPUs that multiply in it, if the networks are
        wide enough to gain.
    """
    if precision != "auto":
        return precision
    gains = device.type == "cpu" and width >= BFLOAT16_WIDTH and has_bfloat16_products()
    return "bfloat16" if gains else "float32"


def autocast(device: th.device, precision: str, width: int) -> th.autocast:
    """
    Make the context manager that forward passes run in.

    :param device: Device of the networks.
    :param precision: One of :data:`PRECISIONS`. With ``"bfloat16"``, matrix products are computed in bfloat16, while
        losses, parameters and latents stay in single precision.
    :param width: Width of the world model's networks.
    :return: The context manager.
    """
    enabled = resolve_precision(precision, device, width) == "bfloat16"
    return th.autocast(device.type, dtype=th.bfloat16, enabled=enabled)
