"""Functions that pass through ``torch.compile``, and go on without it where it fails."""

import warnings
from collections.abc import Callable
from typing import Any

import torch as th


class Compiler:
    """
    Compiles functions at their first call; once one of them fails, all not yet compiled stay as they are.

    A machine without a C++ compiler, an unsupported operation, a broken installation: there is one warning and the
    results are the same.
    """

    def __init__(self) -> None:
        self.failed = False

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """:param function: A function of tensors and modules. :return: Its compiled form."""
        compiled: Callable[..., Any] | None = None

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal compiled
            if compiled is not None:
                return compiled(*args, **kwargs)
            if self.failed:
                return function(*args, **kwargs)
            try:
                # Static shapes: a training run has one set of them.
                attempt = th.compile(function, dynamic=False)
                result = attempt(*args, **kwargs)
            except (MemoryError, th.OutOfMemoryError):
                raise
            except Exception as error:  # the backends raise many kinds
                self.failed = True
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                warnings.warn(
                    f"compile has no effect, torch.compile does not work here: {reason} "
                    "(compile=False asks for none and is silent)",
                    stacklevel=2,
                )
                return function(*args, **kwargs)
            compiled = attempt
            return result

        return call
