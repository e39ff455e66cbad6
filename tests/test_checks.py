"""The checks of arguments: what passes, and the sentences for what does not."""

import math

import numpy as np
import pytest

from sb3_pwm.common.checks import (
    check_choice,
    check_distinct,
    check_fields,
    check_finite,
    check_name,
    check_number,
    check_subclass,
    reject_unknown_keywords,
)


def raised(check, *args, **kwargs):
    """The sentence of the error that a check raises, empty if it passes."""
    try:
        check(*args, **kwargs)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("value", "limits", "sentence"),
    [
        (3, dict(low=1, integer=True), ""),
        (np.int64(1), dict(low=1, integer=True), ""),
        (np.float32(0.5), dict(low=0.0, high=1.0), ""),
        (math.inf, dict(finite=False), ""),
        (0, dict(low=1, integer=True), "n must be an integer of at least 1, got 0."),
        (2.0, dict(integer=True), "n must be an integer, got 2.0."),
        (0.0, dict(low=0.0, above=True), "n must be a number above 0, got 0.0."),
        (1.0, dict(low=0.0, high=1.0, below=True), "n must be a number of at least 0 and below 1, got 1.0."),
        (2.0, dict(low=0.0, high=1.0), "n must be a number of at least 0 and of at most 1, got 2.0."),
        (math.inf, {}, "n must be a number, got inf."),
        (math.nan, {}, "n must be a number, got nan."),
        ("1", {}, "n must be a number, got '1'."),
        (None, {}, "n must be a number, got None."),
    ],
)
def test_numbers(value, limits, sentence):
    assert raised(check_number, "n", value, **limits) == sentence


def test_choices_are_of_their_type():
    assert raised(check_choice, "compile", True, (True, False, "auto")) == ""
    sentence = 'compile must be True, False or "auto", got 1.'
    assert raised(check_choice, "compile", 1, (True, False, "auto")) == sentence
    assert raised(check_choice, "mode", "x", (None,)) == "mode must be None, got 'x'."


def test_subclasses():
    assert (
        raised(check_subclass, "policy", bool, int) == raised(check_subclass, "policy", None, int, optional=True) == ""
    )
    sentence = "policy must be a subclass of builtins's int, got <class 'str'>."
    assert raised(check_subclass, "policy", str, int) == sentence
    assert raised(check_subclass, "policy", None, int).endswith("got None.")


def test_distinct_values():
    assert raised(check_distinct, "The tasks", ("walk", "run")) == ""
    assert raised(check_distinct, "The tasks", ("walk", "run", "walk")) == (
        "The tasks must be distinct, got walk, run, walk."
    )


def test_few_names_are_listed_and_of_many_the_nearest():
    few, many = ("walk", "run"), [f"Walk-{number}" for number in range(20)]
    assert raised(check_name, "task", "walk", few) == raised(check_name, "task", "WALK", few, ignore_case=True) == ""
    assert raised(check_name, "task", "Walk", few) == "There is no task 'Walk'; the tasks are walk, run."
    assert raised(check_name, "task", "x", few, "The model") == "The model has no task 'x'; its tasks are walk, run."
    assert raised(check_name, "task", "x", (), "The model") == "The model has no task 'x'; its tasks are (none)."
    assert (
        raised(check_name, "task", "walk-7x", many) == "There is no task 'walk-7x'; nearest: Walk-7, Walk-17, Walk-9."
    )
    assert raised(check_name, "task", "walk-7", many, ignore_case=True) == ""


def test_keys_and_keyword_arguments():
    class Box:
        def __init__(self, width, height=1):
            pass

    class Anything:
        def __init__(self, **kwargs):
            pass

    assert raised(check_fields, "A box", {"width": 1}, ("width", "height")) == ""
    assert (
        raised(check_fields, "A box", ["witdh"], ("width", "height"))
        == "A box has no field 'witdh': did you mean 'width'?"
    )
    assert raised(check_fields, "A box", ["x"], ("width", "height")) == (
        "A box has no field 'x': its fields are width, height."
    )
    assert (
        raised(reject_unknown_keywords, Box, {"width": 1}) == raised(reject_unknown_keywords, Anything, {"x": 1}) == ""
    )
    old = {"breadth": "it is called width now."}
    for name, remedy in (
        ("witdh", "did you mean 'width'?"),
        ("x", "see its docstring for its arguments."),
        *old.items(),
    ):
        assert raised(reject_unknown_keywords, Box, {name: 1}, old) == f"Box has no argument {name!r}: {remedy}"


def test_values_of_environments():
    values = np.zeros((3, 2))
    assert raised(check_finite, "reward", values, 7) == ""
    values[1, 1] = np.nan
    assert raised(check_finite, "reward", values, 7, first_env=4) == (
        "The reward of environment 5 is NaN or infinite at step 7: nothing of this step was stored; "
        "check the environment."
    )
    assert raised(check_finite, "observation", {"a": values[:1], "b": values}, 7).startswith(
        "The observation 'b' of environment 1 is NaN"
    )
