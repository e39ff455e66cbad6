"""``torch.compile`` with a fallback to the plain function."""

import warnings
from collections.abc import Callable
from typing import Any

import torch as th


class Compiler:
    """
    Compile functions at their first call. If one compilation fails, the functions that follow stay uncompiled.

    Compilation fails on a machine without a C++ compiler, for instance. The user then gets one warning, and the same
    results as with compilation.
    """

    def __init__(self) -> None:
        self.failed = False

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """
        Compile a function.

        :param function: Function of tensors and modules.
        :return: Function with the same results, which compiles ``function`` when it is called first.
        """
        compiled: Callable[..., Any] | None = None

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal compiled
            if compiled is not None:
                return compiled(*args, **kwargs)
            if self.failed:
                return function(*args, **kwargs)
            try:
                # Static shapes: a training run uses one set of shapes.
                attempt = th.compile(function, dynamic=False)
                result = attempt(*args, **kwargs)
            except (MemoryError, th.OutOfMemoryError):
                raise
            except Exception as error:  # the backends raise many kinds of error
                self.failed = True
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                warnings.warn(
                    f"compile has no effect, torch.compile does not work here: {reason} "
                    "(pass compile=False to avoid this warning)",
                    stacklevel=2,
                )
                return function(*args, **kwargs)
            compiled = attempt
            return result

        return call
