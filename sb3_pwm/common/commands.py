"""Run a command of the package: its options are the fields of a dataclass, wrong input ends it with one sentence."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import tyro

WRONG_USE = 2
"""Exit code of a command whose input was wrong."""


class Command(Protocol):
    """A dataclass whose fields are the options of a command. The ``:param:`` lines of its docstring are the help."""

    def run(self) -> None:
        """Run the command."""


def run_command(
    commands: type[Command] | Mapping[str, type[Command]],
    prog: str,
    arguments: Sequence[str] | None = None,
    renamed: Mapping[str, str] | None = None,
    description: str | None = None,
) -> None:
    """
    Parse the options of a command and run it.

    :param commands: The command, or several commands by name.
    :param prog: Name of the program, for messages.
    :param arguments: Command-line arguments. None: the arguments of this process.
    :param renamed: New names of renamed options, by the old name (``--old``).
    :param description: Text of the help, if there are several commands.
    :raises SystemExit: With code 2 if an option is wrong, or the command fails on its input. One sentence on stderr
        says why.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for argument in arguments:
        name = argument.partition("=")[0]
        if renamed is not None and name in renamed:
            _fail(prog, f"The option {name} is called {renamed[name]} now.")
    settings: dict[str, Any] = dict(prog=prog, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    try:
        command: Any
        if isinstance(commands, Mapping):
            command = tyro.extras.subcommand_cli_from_dict(dict(commands), description=description, **settings)
        else:
            command = tyro.cli(commands, **settings)
        command.run()
    except (ValueError, OSError, ImportError, MemoryError) as error:
        _fail(prog, str(error))
    except KeyboardInterrupt:
        print(f"{prog}: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None


def _fail(prog: str, message: str) -> NoReturn:
    print(f"{prog}: error: {message}", file=sys.stderr)
    raise SystemExit(WRONG_USE)
