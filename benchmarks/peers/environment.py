"""The virtual environment of d3rlpy, in which the packages of this environment can be imported too."""

from __future__ import annotations

import json
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

# d3rlpy asks for a gymnasium of its own. It runs with the one of this project, so everything is installed without
# dependencies. These are the packages that d3rlpy imports and that this project may lack.
PACKAGES = (
    *("d3rlpy==2.8.1", "gym==0.26.2", "gym-notices", "scikit-learn", "joblib", "threadpoolctl", "narwhals"),
    *("structlog", "colorama", "dataclasses-json", "marshmallow", "typing-inspect", "mypy-extensions"),
)
COMPLETE = "complete.json"
"""File in the virtual environment that names the installed packages, written last"""


def make_environment(folder: Path) -> Path:
    """
    Make the virtual environment, unless that has been done.

    :param folder: Folder of the virtual environment.
    :return: The Python interpreter of the virtual environment.
    :raises subprocess.CalledProcessError: If the packages cannot be installed.
    """
    folder = folder.resolve()
    builder = venv.EnvBuilder(clear=True, symlinks=sys.platform != "win32")
    mark, contents = folder / COMPLETE, json.dumps({"packages": PACKAGES, "parents": _parents()}, indent=2)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if mark.is_file() and mark.read_text() == contents:
        return python
    print(f"d3rlpy is installed in {folder}", file=sys.stderr, flush=True)
    builder.create(folder)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    # addsitedir instead of the bare folders: it reads the .pth files of editable installations, too.
    lines = [f"import site; site.addsitedir({parent!r})\n" for parent in _parents()]
    Path(packages, "parents.pth").write_text("".join(lines))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", "--no-deps", *PACKAGES], check=True)
    mark.write_text(contents)
    return python


def _parents() -> list[str]:
    """:return: Folders with the packages of this environment."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    return list(dict.fromkeys(folders))
