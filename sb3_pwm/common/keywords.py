"""A clear answer to a misspelt keyword."""

import difflib
import inspect
from typing import Any


def reject_unknown_keywords(cls: type, keywords: dict[str, Any], known: dict[str, str] | None = None) -> None:
    """
    :param cls: Class that is being constructed.
    :param keywords: The keyword arguments it was given.
    :param known: Arguments of its relatives that it lacks on purpose, and what to do without them.
    :raises TypeError: If its constructor lacks one of them; the message names it and the nearest that exists.
    """
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in keywords:
        if name not in parameters:
            if known is not None and name in known:
                raise TypeError(f"{cls.__name__} has no argument {name!r}: {known[name]}")
            near = difflib.get_close_matches(name, parameters, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else "see its docstring for those it has."
            raise TypeError(f"{cls.__name__} has no argument {name!r}: {remedy}")
