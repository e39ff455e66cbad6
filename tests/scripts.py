"""Run scripts and modules in the process of the tests: a new process needs seconds to import torch."""

import contextlib
import importlib.util
import io
import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import matplotlib.style


def load_script(path: Path) -> ModuleType:
    """
    :param path: A script.
    :return: The script as a module, whatever the working directory.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def program(name: str, arguments: list[object], folder: Path) -> Iterator[io.StringIO]:
    """
    Set the arguments and the working directory of a program, and catch its output.

    Figures have matplotlib's default style, even if another program has set a different one, as rl-zoo3's plots do.

    :param name: Name of the program.
    :param arguments: Arguments of the program.
    :param folder: Working directory of the program.
    :return: Standard output and standard error together.
    """
    output, before, argv = io.StringIO(), Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = [name, *map(str, arguments)]
    try:
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            matplotlib.style.context("default"),
        ):
            yield output
    finally:
        os.chdir(before)
        sys.argv = argv


def run_script_here(path: Path, *arguments: object, folder: Path) -> str:
    """
    :param path: A script.
    :param arguments: Arguments of the program.
    :param folder: Working directory of the program.
    :return: Output of the program.
    """
    with program(str(path), list(arguments), folder) as output:
        runpy.run_path(str(path), run_name="__main__")
    return output.getvalue()


def run_module_here(name: str, *arguments: object, folder: Path) -> str:
    """
    :param name: Name of a module that ``python -m`` would run.
    :param arguments: Arguments of the program.
    :param folder: Working directory of the program.
    :return: Output of the program.
    """
    with program(name, list(arguments), folder) as output:
        runpy.run_module(name, run_name="__main__", alter_sys=False)
    return output.getvalue()
