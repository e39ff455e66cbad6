"""
Run the tests of Stable-Baselines3 with PWM in place of SAC, and print the outcome of each test.

pip downloads the source archive of the installed version, which contains the tests. docs/sb3_tests.md explains the
failures: some tests need features that only SAC has.

    python benchmarks/sb3_suite.py [--source stable_baselines3-2.9.2.tar.gz] [--jobs 2] [--keep FOLDER]
"""

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

# Modules that test an off-policy algorithm on continuous actions
MODULES = (
    *("run", "save_load", "predict", "spaces", "dict_env", "cnn", "callbacks", "logger", "tensorboard"),
    *("vec_normalize", "train_eval_mode", "deterministic", "custom_policy", "n_step_replay", "her", "identity", "sde"),
)
# The name of a test contains the class if it is a parameter. The other names say what is tested.
SELECTION = "PWM or sac or train_freq or n_critics or pytorch_var or no_resource or multi_env or n_steps"
CONFTEST = """
    import stable_baselines3
    import torch

    import sb3_pwm

    torch.set_num_threads(1)
    stable_baselines3.SAC = sb3_pwm.PWM
"""


def download(folder: Path) -> Path:
    """:param folder: Folder for the archive. :return: The source archive of the installed SB3."""
    version = importlib.metadata.version("stable-baselines3")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), f"stable-baselines3=={version}"], check=True)
    return next(folder.glob("*.tar.gz"))


def unpack_tests(archive: Path, folder: Path) -> None:
    """:param archive: SB3's source. :param folder: Folder for the test modules. SAC is replaced by PWM there."""
    with tarfile.open(archive) as source:
        for member in source.getmembers():
            name = Path(member.name)
            if name.parent.name == "tests" and name.suffix == ".py":
                content = source.extractfile(member)
                assert content is not None
                (folder / name.name).write_bytes(content.read())
    (folder / "conftest.py").write_text(textwrap.dedent(CONFTEST))


def outcomes(report: Path) -> list[tuple[str, str, str, str]]:
    """:param report: File in JUnit's format. :return: Module, name, outcome and error message of each test."""
    rows = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        failure = case.find("failure") if case.find("failure") is not None else case.find("error")
        skipped = case.find("skipped")
        outcome = "failed" if failure is not None else "skipped" if skipped is not None else "passed"
        message = ""
        if failure is not None:
            message = failure.get("message", "").splitlines()[0]
        elif skipped is not None:
            message = skipped.get("message", "")
        rows.append((case.get("classname", "").rpartition(".")[2], case.get("name", ""), outcome, message))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="SB3's source archive; by default pip downloads it")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="folder of the tests and of the report; by default they are deleted")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        unpack_tests(args.source or download(folder), folder)
        modules = [f"test_{name}.py" for name in MODULES if (folder / f"test_{name}.py").exists()]
        options = ["-q", "-n", str(args.jobs), "-p", "no:cacheprovider", "-k", SELECTION, "--junitxml=report.xml"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", *options, *modules]
        subprocess.run(command, cwd=folder, env=environment, check=False)
        rows = outcomes(folder / "report.xml")
    print("\n| module | test | outcome | |\n|---|---|---|---|")
    for module, test, outcome, message in sorted(rows):
        reason = message[:160].replace("|", "/")  # which would end the table's cell
        print(f"| {module} | {test} | {outcome} | {reason} |")
    counts = Counter(outcome for _, _, outcome, _ in rows)
    print("\n" + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
