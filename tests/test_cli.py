"""The console command: what is installed, what `python -m` runs, and what help says."""

import dataclasses
import re
import subprocess
import sys

import pytest
import tyro

from sb3_pwm.cli import COMMANDS, main


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_option_has_a_help_text(verb, capsys):
    with pytest.raises(SystemExit) as error:
        main([verb, "--help"])
    assert error.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    fields = [field for field in dataclasses.fields(COMMANDS[verb]) if field.name != "config"]
    if any(field.name == "config" for field in dataclasses.fields(COMMANDS[verb])):
        fields += dataclasses.fields(type(COMMANDS[verb].__dataclass_fields__["config"].default_factory()))
    for field in fields:
        documented = re.search(rf":param {field.name}: (\w+)", text_of(COMMANDS[verb]))
        assert documented, f"{field.name} of {verb} is not documented"
        name = "[PATH" if field.name == "folders" else f"--{field.name.replace('_', '-')}"
        assert name in text
        assert documented[1] in text


def text_of(command) -> str:
    config = command.__dataclass_fields__.get("config")
    return command.__doc__ + (config.default_factory.__doc__ if config is not None else "")


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(verb in text for verb in COMMANDS)


@pytest.mark.parametrize("start", [["-m", "sb3_pwm.cli", "describe"], ["-m", "sb3_pwm.describe"]])
def test_wrong_input_in_a_process_of_its_own(start, tmp_path):
    line = [sys.executable, *start, str(tmp_path / "nowhere")]
    process = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].endswith(f"error: There is no folder {tmp_path / 'nowhere'}.")
    assert "Traceback" not in process.stderr


def test_unknown_commands_are_refused(capsys):
    with pytest.raises(SystemExit) as error:
        main(["train"])
    assert error.value.code == 2
    assert "train" in capsys.readouterr().err


def test_options_are_read_into_their_types():
    command = tyro.cli(
        COMMANDS["pretrain"], args=["--dataset", "a", "b", "--out", "wm.safetensors", "--steps", "7", "--rho", "0.5"]
    )
    assert (command.dataset, command.config.steps, command.config.rho) == (("a", "b"), 7, 0.5)
