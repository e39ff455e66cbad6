"""A clear answer to a misspelled keyword, and to a value that its argument cannot have."""

import difflib
import inspect
import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np


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


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    finite: bool = True,
    integer: bool = False,
) -> None:
    """
    :param name: The argument's name, for the error.
    :param value: What it was given.
    :param low: The least it may be, or with ``above`` what it has to be above of.
    :param high: The most.
    :param finite: Whether infinity is refused.
    :param integer: Whether fractions are refused, and integers of type float.
    :raises ValueError: If it is something else.
    """
    valid = isinstance(value, Integral if integer else Real) and low <= float(value) <= high
    if valid and not (above and value == low) and not (finite and math.isinf(value)):
        return
    kind = "an integer" if integer else "a number"
    limits = [f"above {low:g}" if above else f"of at least {low:g}"] if low > -math.inf else []
    limits += [f"of at most {high:g}"] if high < math.inf else []
    raise ValueError(f"{name} must be {' '.join([kind, ' and '.join(limits)]).rstrip()}, got {value!r}.")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """
    :param name: Name of the argument, for the error.
    :param value: The value that it was given.
    :param choices: The values that it may have.
    :raises ValueError: If the value is none of them.
    """
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        *others, last = (repr(choice).replace("'", '"') for choice in choices)
        raise ValueError(f"{name} must be {', '.join(others)}{' or ' if others else ''}{last}, got {value!r}.")


def check_subclass(name: str, value: Any, base: type, optional: bool = False) -> None:
    """
    :param name: The argument's name, for the error.
    :param value: What it was given.
    :param base: The class that it must be derived from.
    :param optional: Whether it may be None.
    :raises ValueError: If it is something else.
    """
    if not (optional and value is None) and not (isinstance(value, type) and issubclass(value, base)):
        raise ValueError(
            f"{name} must be a subclass of {base.__module__.partition('.')[0]}'s {base.__name__}, got {value!r}."
        )


def check_finite(quantity: str, values: Any, timestep: int, first_env: int = 0) -> None:
    """
    :param quantity: Name of the quantity, for the error.
    :param values: One row per environment: an array, or a dictionary of arrays.
    :param timestep: Timestep that the values are of, for the error.
    :param first_env: Number of the environment that the first row belongs to.
    :raises ValueError: If a value is NaN or infinite; the message names the environment and the timestep.
    """
    named = values.items() if isinstance(values, dict) else [("", values)]
    for name, array in named:
        finite = np.isfinite(np.asarray(array))
        if not finite.all():
            env = first_env + int(np.argmin(finite.reshape(len(finite), -1).all(-1)))
            raise ValueError(
                f"The {quantity}{f' {name!r}' if name else ''} of environment {env} is NaN or infinite at step "
                f"{timestep}: nothing of this step was stored; check the environment."
            )
