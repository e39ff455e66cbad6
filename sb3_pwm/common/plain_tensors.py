"""Files of torch.save that others have made, read without executing anything that they say."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch as th


def load_plain_tensors(path: str | Path, stand_ins: Sequence[tuple[Callable[..., Any], str]] = ()) -> Any:
    """
    :param path: The file.
    :param stand_ins: Ours that are called where the file names something beyond tensors and containers, and its name.
    :return: What the file holds, on the CPU.
    :raises ValueError: If it is damaged, or holds more than that; the message names it.
    """
    try:
        # The unpickler of weights_only knows tensors and containers, and calls nothing else but these.
        with th.serialization.safe_globals(list(stand_ins)):
            return th.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, ... by where the file is odd
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged, or holds more than plain tensors, and was not read: {reason}") from error
