"""Reading of ``torch.save`` files from other sources, without executing code in them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch as th


def load_plain_tensors(path: str | Path, stand_ins: Sequence[tuple[Callable[..., Any], str]] = ()) -> Any:
    """
    Read a file that holds nothing but tensors, numbers, strings and containers of them.

    :param path: The file.
    :param stand_ins: Pairs of a callable and the qualified name of a class or function. If the file names that
        class or function, the callable is called instead.
    :return: Content of the file, with tensors on the CPU.
    :raises ValueError: If the file is damaged, or names any other class or function. The message names it.
    """
    try:
        # The unpickler of weights_only builds tensors and containers. Beside them, it calls the stand-ins only.
        with th.serialization.safe_globals(list(stand_ins)):
            return th.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError and others, by where the file is damaged
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged, or holds more than plain tensors, and was not read: {reason}") from error
