"""Mixed precision of the networks."""

import torch as th

PRECISIONS = ("float32", "bfloat16")
"""Valid values of ``precision``"""


def autocast(device: th.device, precision: str) -> th.autocast:
    """
    Make the context manager that forward passes run in.

    :param device: Device of the networks.
    :param precision: One of :data:`PRECISIONS`. With ``"bfloat16"``, matrix products are computed in bfloat16, while
        losses, parameters and latents stay in single precision.
    :return: The context manager.
    """
    return th.autocast(device.type, dtype=th.bfloat16, enabled=precision == "bfloat16")
