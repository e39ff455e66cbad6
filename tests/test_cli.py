"""The console command: how options are read, what help says, and how wrong input is refused."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from sb3_pwm.cli import COMMANDS, main
from sb3_pwm.common.commands import POSITIONAL, run_command


@dataclasses.dataclass(frozen=True)
class Sizes:
    """
    Sizes.

    :param width: Width in percent (%).
    :param depth: Depth.
    """

    width: int = 3
    depth: float = 0.5

    def __post_init__(self):
        if self.width < 0:
            raise ValueError(f"width must be positive, got {self.width}.")


@dataclasses.dataclass(frozen=True)
class Toy:
    """
    Do nothing.

    It has a field of each kind::

        toy --names a b

    :param names: Names.
    :param files: Files.
    :param sizes: Sizes of the toy.
    :param kind: Kind.
    :param place: Place.
    :param seeds: Seeds.
    :param fast: Be fast.
    :param safe: Be safe.
    """

    RENAMED: ClassVar[dict[str, str]] = {"--sort": "--kind"}
    made: ClassVar[list["Toy"]] = []

    names: tuple[str, ...]
    files: tuple[Path, ...] = dataclasses.field(default=(), metadata=POSITIONAL)
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    kind: Literal["red", "blue"] = "red"
    place: Path | None = None
    seeds: tuple[int, ...] = (0, 1)
    fast: bool = False
    safe: bool = True

    def run(self):
        if self.kind == "blue":
            raise FileNotFoundError(2, "No such file", "blue.txt")
        self.made.append(self)


def refusal(commands, arguments, capsys):
    """:return: What a refused command says."""
    with pytest.raises(SystemExit) as error:
        run_command(commands, "toy", arguments)
    assert error.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line


def test_options_are_read_into_their_types():
    run_command(
        Toy, "toy", ["x", "y", "--names", "a", "b", "--width", "7", "--place", "there", "--seeds", "5", "--fast"]
    )
    assert Toy.made.pop() == Toy(("a", "b"), (Path("x"), Path("y")), Sizes(7), "red", Path("there"), (5,), True)
    run_command({"toy": Toy, "other": Toy}, "prog", ["toy", "--names", "a"])
    assert Toy.made.pop() == Toy(("a",))
    for option, is_safe in (("--safe", True), ("--no-safe", False)):
        run_command(Toy, "toy", ["--names", "a", option])
        assert Toy.made.pop() == Toy(("a",), safe=is_safe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "The following arguments are required: --names."),
        (("--names",), "Argument --names: expected at least one argument."),
        (("--names", "a", "--width", "wide"), "Argument --width: invalid int value: 'wide'."),
        (("--names", "a", "--width", "-1"), "width must be positive, got -1."),
        (("--names", "a", "--kind", "blue"), "blue.txt: No such file."),
        (("--names", "a", "--widht=3"), "The command has no option '--widht'; its options are --names, --width"),
        (("--names", "a", "--wid", "3"), "The command has no option '--wid'"),  # no abbreviations
        (("--names", "a", "--sort", "red"), "The option --sort is called --kind now."),
        (("--names", "a", "--sort=red"), "The option --sort is called --kind now."),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(arguments, message, capsys):
    assert refusal(Toy, arguments, capsys).startswith(f"toy: error: {message}")
    assert refusal({"toy": Toy}, ("toy", *arguments), capsys).startswith(f"toy toy: error: {message}")


def test_an_option_before_the_command_is_refused(capsys):
    message = "toy toy: error: The option --fast must come after the command."
    assert refusal({"toy": Toy}, ["--fast", "toy", "--names", "a"], capsys) == message


def test_an_interruption_is_no_traceback(capsys, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Toy, "run", interrupted)
    with pytest.raises(SystemExit) as error:
        run_command(Toy, "toy", ["--names", "a"])
    assert error.value.code == 130
    assert capsys.readouterr().err == "toy: interrupted.\n"


def test_help_has_groups_and_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as error:
        run_command(Toy, "toy", ["--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    assert "Do nothing.\n\nIt has a field of each kind:\n\n    toy --names a b\n" in text
    parts = ("required:", "\n  --names", "options:", "\n  --kind", "Sizes of the toy:", "\n  --width")
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)
    assert "Width in percent (%). (default: 3)" in text
    assert "Seeds. (default: 0 1)" in text
    assert "Be fast.\n" in text
    assert "Be safe. (default: True)" in text


def test_every_option_of_every_command_is_in_its_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for verb, command in COMMANDS.items():
        with pytest.raises(SystemExit) as error:
            main([verb, "--help"])
        assert error.value.code == 0
        text = capsys.readouterr().out.partition("Show this help")
        for field in dataclasses.fields(command):
            if field.name not in ("folders", "config"):
                assert f"\n  --{field.name.replace('_', '-')}" in "".join(text)
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"    {verb} " in text for verb in COMMANDS)


def test_unknown_commands_are_refused(capsys):
    with pytest.raises(SystemExit) as error:
        main(["train"])
    assert error.value.code == 2
    assert "invalid choice: 'train'" in capsys.readouterr().err


def test_wrong_input_in_a_process_of_its_own(tmp_path):
    line = [sys.executable, "-m", "sb3_pwm.describe", str(tmp_path / "nowhere")]
    process = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr == f"sb3-pwm describe: error: There is no folder {tmp_path / 'nowhere'}.\n"
    assert process.stdout == ""
