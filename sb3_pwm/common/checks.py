"""Checks of arguments and data. Each raises an error whose message names the argument, its value and the remedy."""

import difflib
import inspect
import math
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

MAX_LISTED_NAMES = 12
"""Messages list all known names up to this number of them, and the nearest names beyond it."""


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    finite: bool = True,
    integer: bool = False,
) -> None:
    """
    Check that an argument is a number in a range.

    :param name: Name of the argument, for the message.
    :param value: Value of the argument.
    :param low: Smallest valid value.
    :param high: Largest valid value.
    :param above: Whether ``low`` itself is refused.
    :param below: Whether ``high`` itself is refused.
    :param finite: Whether infinity is refused.
    :param integer: Whether the value must be of an integer type.
    :raises ValueError: If the value is not such a number.
    """
    valid = isinstance(value, Integral if integer else Real) and low <= float(value) <= high
    if valid and not (above and value == low) and not (below and value == high) and not (finite and math.isinf(value)):
        return
    kind = "an integer" if integer else "a number"
    limits = [f"above {low:g}" if above else f"of at least {low:g}"] if low > -math.inf else []
    limits += [f"below {high:g}" if below else f"of at most {high:g}"] if high < math.inf else []
    raise ValueError(f"{name} must be {' '.join([kind, ' and '.join(limits)]).rstrip()}, got {value!r}.")


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """
    Check that an argument has one of several values.

    :param name: Name of the argument, for the message.
    :param value: Value of the argument.
    :param choices: Valid values. A value of another type than a choice is not equal to it.
    :raises ValueError: If the value is not one of the choices.
    """
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        *others, last = (repr(choice).replace("'", '"') for choice in choices)
        raise ValueError(f"{name} must be {', '.join(others)}{' or ' if others else ''}{last}, got {value!r}.")


def check_subclass(name: str, value: Any, base: type, optional: bool = False) -> None:
    """
    Check that an argument is a subclass of a class.

    :param name: Name of the argument, for the message.
    :param value: Value of the argument.
    :param base: The base class.
    :param optional: Whether None is valid too.
    :raises ValueError: If the value is not a subclass of ``base``.
    """
    if not (optional and value is None) and not (isinstance(value, type) and issubclass(value, base)):
        raise ValueError(
            f"{name} must be a subclass of {base.__module__.partition('.')[0]}'s {base.__name__}, got {value!r}."
        )


def check_distinct(names: str, values: Sequence[Any]) -> None:
    """
    Check that no value occurs twice.

    :param names: Noun phrase for the values, for the message: ``"The tasks of a data set"``.
    :param values: The values.
    :raises ValueError: If a value occurs twice.
    """
    if len(set(values)) != len(values):
        raise ValueError(f"{names} must be distinct, got {', '.join(map(str, values))}.")


def check_name(kind: str, name: str, known: Collection[str], owner: str = "", ignore_case: bool = False) -> None:
    """
    Check that something of a given name exists.

    :param kind: Kind of the thing, a singular noun: ``"task"``.
    :param name: Name that was asked for.
    :param known: Names that exist.
    :param owner: Noun phrase for what has the known names, for the message: ``"The data set"``. Empty: no owner.
    :param ignore_case: Whether a name that differs in upper and lower case only is the same name.
    :raises ValueError: If the name is unknown. The message lists the known names, or the nearest of many.
    """
    lower_case = {known_name.lower(): known_name for known_name in known}
    if name in known or (ignore_case and name.lower() in lower_case):
        return
    start = f"{owner} has no {kind} {name!r}" if owner else f"There is no {kind} {name!r}"
    if len(known) > MAX_LISTED_NAMES:
        nearest = difflib.get_close_matches(name.lower(), lower_case, n=3, cutoff=0.0)
        raise ValueError(f"{start}; nearest: {', '.join(lower_case[found] for found in nearest)}.")
    raise ValueError(f"{start}; {'its' if owner else 'the'} {kind}s are {', '.join(known) or '(none)'}.")


def check_fields(owner: str, names: Iterable[str], known: Collection[str]) -> None:
    """
    Check the keys of a dictionary of options.

    :param owner: Noun phrase for what is built of the dictionary, for the message: ``"A world model"``.
    :param names: Keys of the dictionary.
    :param known: Valid keys.
    :raises ValueError: If a key is unknown. The message names the key and the nearest valid one.
    """
    for name in names:
        if name not in known:
            remedy = _nearest(name, known) or f"its fields are {', '.join(known)}."
            raise ValueError(f"{owner} has no field {name!r}: {remedy}")


def reject_unknown_keywords(cls: type, keywords: Iterable[str], known: dict[str, str] | None = None) -> None:
    """
    Check the keyword arguments of a class whose constructor accepts any.

    :param cls: Class that is being constructed.
    :param keywords: Names of the keyword arguments that it was given.
    :param known: Arguments that the class lacks on purpose: by name, a sentence that says what to use.
    :raises TypeError: If the constructor lacks an argument. The message names the argument and the nearest valid one.
    """
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in keywords:
        if name not in parameters:
            if known is not None and name in known:
                raise TypeError(f"{cls.__name__} has no argument {name!r}: {known[name]}")
            remedy = _nearest(name, parameters) or "see its docstring for its arguments."
            raise TypeError(f"{cls.__name__} has no argument {name!r}: {remedy}")


def _nearest(name: str, known: Iterable[str]) -> str:
    """:return: The question whether the nearest known name was meant; empty if no name is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def check_finite(quantity: str, values: Any, timestep: int, first_env: int = 0) -> None:
    """
    Check values that environments returned.

    :param quantity: Name of the quantity, for the message.
    :param values: Array with one row per environment, or a dictionary of such arrays.
    :param timestep: Timestep at which the environments returned the values, for the message.
    :param first_env: Index of the environment of the first row.
    :raises ValueError: If a value is NaN or infinite. The message names the environment and the timestep.
    """
    named = values.items() if isinstance(values, dict) else [("", values)]
    for name, array in named:
        row = first_not_finite(array)
        if row is not None:
            raise ValueError(
                f"The {quantity}{f' {name!r}' if name else ''} of environment {first_env + row} is NaN or infinite at "
                f"step {timestep}: nothing of this step was stored; check the environment."
            )


def first_not_finite(values: Any) -> int | None:
    """
    Find the first row that holds NaN or infinity.

    :param values: Array ``(rows, ...)``.
    :return: Index of the row; None if all values are finite.
    """
    finite = np.isfinite(np.asarray(values))
    return None if finite.all() else int(np.argmin(finite.reshape(len(finite), -1).all(-1)))
