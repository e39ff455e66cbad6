"""Commands whose options are the fields of a dataclass. Wrong input ends a command with one sentence."""

import argparse
import dataclasses
import functools
import inspect
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, get_args, get_origin

from sb3_pwm.common.checks import check_name

FAILED = 1
"""Exit code of a command that did only a part of its work"""
WRONG_USE = 2
"""Exit code of a command whose input was wrong"""
INTERRUPTED = 130
"""Exit code of a command that was interrupted from the keyboard"""

POSITIONAL = {"positional": True}
"""Metadata of a field whose values are given without the name of an option"""


class PartFailedError(Exception):
    """A part of a command's work failed, and the other parts are done. The message is the sentence on stderr."""


class Command(Protocol):
    """
    A dataclass whose fields are the options of a command.

    The ``:param:`` lines of its docstring are the help texts of the options. A field that is a dataclass itself is a
    group of options, and its ``:param:`` line is the title of the group. A class attribute ``RENAMED`` may hold old
    names of options with their new names.
    """

    def run(self) -> None:
        """Run the command."""


class _Parser(argparse.ArgumentParser):
    """A parser that reports wrong input in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        _fail(self.prog, f"{message[:1].upper()}{message[1:]}.")


def run_command(
    commands: type[Command] | Mapping[str, type[Command]],
    prog: str,
    arguments: Sequence[str] | None = None,
    description: str = "",
) -> None:
    """
    Parse the options of a command and run it.

    :param commands: The command, or several commands by name.
    :param prog: Name of the program, for messages.
    :param arguments: Command-line arguments. None: the arguments of this process.
    :param description: First lines of the help, if there are several commands.
    :raises SystemExit: With code 2 if an option is wrong, or if the command refuses its input, and with code 1 if a
        part of its work failed. One sentence on stderr says why.
    """
    parser = _make_parser(commands, prog, description)
    options, unknown = parser.parse_known_args(arguments)
    command = commands
    if isinstance(command, Mapping):
        prog, command = f"{prog} {options.command}", command[options.command]
    try:
        if unknown:
            _refuse(unknown[0], command)
        _build(command, vars(options)).run()
    except (ValueError, OSError, ImportError, MemoryError) as error:
        _fail(prog, message_of(error))
    except PartFailedError as error:
        _fail(prog, message_of(error), FAILED)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _make_parser(
    commands: type[Command] | Mapping[str, type[Command]], prog: str, description: str
) -> argparse.ArgumentParser:
    if not isinstance(commands, Mapping):
        parser = _Parser(prog=prog, **_settings(commands))
        _add_options(parser, commands)
        return parser
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    subparsers = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, command in commands.items():
        summary = " ".join(_description(command).split("\n\n")[0].split())
        _add_options(subparsers.add_parser(name, help=summary.replace("%", "%%"), **_settings(command)), command)
    return parser


def _settings(command: type[Command]) -> dict[str, Any]:
    """:return: Arguments of the parser of a command."""
    formatter = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
    return {
        "description": _description(command),
        "formatter_class": formatter,
        "allow_abbrev": False,
        "add_help": False,
    }


def _add_options(parser: argparse.ArgumentParser, command: type[Command]) -> None:
    """Add an option to a parser for each field of a command."""
    required, optional = parser.add_argument_group("required"), parser.add_argument_group("options")
    groups: dict[Any, Any] = {command: optional}
    for owner, field, kind in _fields(command):
        help_text = _help_texts(owner)[field.name]
        if dataclasses.is_dataclass(kind):
            groups[kind] = parser.add_argument_group(help_text.rstrip("."))
            continue
        is_required = field.default is dataclasses.MISSING
        help_text += _default_text(field)
        settings = {"help": help_text.replace("%", "%%"), "default": field.default, **_conversion(kind)}
        if field.metadata == POSITIONAL:
            metavar = field.name.upper().removesuffix("S")
            groups[owner].add_argument(field.name, **{**settings, "metavar": metavar, "nargs": "*"})
        elif is_required:
            required.add_argument(_option(field), required=True, **settings)
        else:
            groups[owner].add_argument(_option(field), **settings)
            if kind is bool and field.default:
                off = {"action": "store_false", "dest": field.name, "help": f"Without {_option(field)}."}
                groups[owner].add_argument(_option(field).replace("--", "--no-", 1), **off)
    optional.add_argument("-h", "--help", action="help", help="Show this help and exit.")


def _fields(command: type[Any]) -> Iterator[tuple[type[Any], dataclasses.Field[Any], Any]]:
    """:return: Dataclass, field and type of each field. The fields of a field that is a dataclass follow it."""
    kinds = typing.get_type_hints(command)
    for field in dataclasses.fields(command):
        yield command, field, kinds[field.name]
        if dataclasses.is_dataclass(kinds[field.name]):
            yield from _fields(kinds[field.name])


def _default_text(field: dataclasses.Field[Any]) -> str:
    """:return: Text that shows the default of a field. Empty if the field is required, or off by default."""
    values = field.default if isinstance(field.default, tuple) else (field.default,)
    if not values or any(value in (None, "", dataclasses.MISSING) or value is False for value in values):
        return ""
    return f" (default: {' '.join(map(str, values))})"


def _option(field: dataclasses.Field[Any]) -> str:
    """:return: Name of a field on the command line."""
    return f"--{field.name.replace('_', '-')}"


def _conversion(kind: Any) -> dict[str, Any]:
    """:return: Arguments of ``add_argument`` that convert strings to a type."""
    if get_origin(kind) in (types.UnionType, typing.Union):  # a type, or None
        (kind,) = (part for part in get_args(kind) if part is not types.NoneType)
    if kind is bool:
        return {"action": "store_true"}
    if get_origin(kind) is tuple:
        return {"nargs": "+", **_conversion(get_args(kind)[0])}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    assert kind in (str, int, float, Path), kind
    return {"type": kind}


def _build(command: type[Any], options: Mapping[str, Any]) -> Any:
    """:return: The command with these options."""
    values = {}
    for owner, field, kind in _fields(command):
        if owner is not command:
            continue
        if dataclasses.is_dataclass(kind):
            values[field.name] = _build(typing.cast(type[Any], kind), options)
        else:
            value = options[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return command(**values)


def _description(command: type[Any]) -> str:
    """:return: The docstring without its fields. Paragraphs are filled, and indented blocks are kept."""
    text = (inspect.getdoc(command) or "").partition(":param ")[0].strip()
    width = min(shutil.get_terminal_size().columns - 2, 100)
    paragraphs = re.sub(r"::$", ":", text, flags=re.MULTILINE).split("\n\n")
    return "\n\n".join(part if part.startswith(" ") else textwrap.fill(part, width) for part in paragraphs)


def _help_texts(command: type[Any]) -> dict[str, str]:
    """:return: Texts of the ``:param:`` lines of a docstring, by the name of the field."""
    found = re.findall(r"^:param (\w+):(.*?)(?=^:|\Z)", inspect.getdoc(command) or "", re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


def _refuse(argument: str, command: type[Command]) -> NoReturn:
    """
    Refuse an argument that a command does not have.

    :raises ValueError: Always. The message names the argument, and its new name or the nearest option.
    """
    name = argument.partition("=")[0]
    if not name.startswith("-"):
        raise ValueError(f"The argument {argument!r} belongs to no option.")
    renamed: Mapping[str, str] = getattr(command, "RENAMED", {})
    if name in renamed:
        raise ValueError(f"The option {name} is called {renamed[name]} now.")
    options = [
        _option(field)
        for _, field, kind in _fields(command)
        if not dataclasses.is_dataclass(kind) and field.metadata != POSITIONAL
    ]
    check_name("option", name, options, "The command")
    raise ValueError(f"The option {name} must come after the command.")


def message_of(error: BaseException) -> str:
    """
    Get the message of an error.

    :param error: The error.
    :return: The message on one line. An error of the operating system names its file.
    """
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}."
    return " ".join(str(error).split()) or type(error).__name__


def _fail(prog: str, message: str, code: int = WRONG_USE) -> NoReturn:
    print(f"{prog}: error: {message}", file=sys.stderr)
    raise SystemExit(code)
