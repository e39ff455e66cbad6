"""The content of the distribution, and its installation and removal."""

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import sb3_pwm

ROOT = Path(__file__).parents[1]


def python(*arguments, executable=sys.executable, cwd=None, **variables):
    process = subprocess.run(
        [str(executable), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, since a build writes folders, and includes those of earlier builds."""
    if not (ROOT / "setup.py").is_file():
        pytest.skip("needs the checkout that the tests belong to")
    copy = tmp_path_factory.mktemp("source") / "sb3-pwm"
    unwanted = shutil.ignore_patterns(".git", "build", "dist", "logs", "docs", "*.egg-info", "__pycache__", ".*_cache")
    return shutil.copytree(ROOT, copy, ignore=unwanted)


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture
def venv(tmp_path):
    """A virtual environment with the packages of this one, but without its start-up files."""
    python("-m", "venv", "--without-pip", tmp_path / "venv")
    executable = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    site_packages = Path(
        python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", executable=executable).strip()
    )
    # After the entries of the new environment, so that packages installed there come first
    folders = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site_packages / "zzz_outer_environment.pth").write_text("\n".join(folders) + "\n")
    return executable, site_packages


def test_wheel_holds_the_hyperparameters_and_the_start_up_file(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "sb3_pwm/hyperparams/pwm.yml" in names
    assert "sb3_pwm/published_scores.csv" in names
    assert "sb3_pwm/envs/muscles.json" in names
    pretrained = {str(path.relative_to(ROOT)) for path in ROOT.glob("sb3_pwm/pretrained/**/*") if path.is_file()}
    assert pretrained <= set(names)
    assert "sb3_pwm/pretrained/mt7/model.safetensors" in pretrained
    assert "sb3_pwm_zoo.pth" in names
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("sb3_pwm/**/*.py")} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sb3_pwm", "sb3_pwm_zoo.pth"}


def test_start_up_file_is_the_source_on_one_import_line(wheel):
    line = zipfile.ZipFile(wheel).read("sb3_pwm_zoo.pth").decode("ascii")
    assert line.startswith("import ")
    assert line.count("\n") == 1


def test_version_is_the_package_s_own(wheel):
    (name,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA")]
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    assert metadata["Version"] == sb3_pwm.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    extras = {"metaworld", "minari", "myosuite", "onnx", "plots", "ray", "render", "tests", "benchmarks", "docs"}
    assert set(metadata.get_all("Provides-Extra")) == extras


def test_console_command(wheel):
    (name,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/entry_points.txt")]
    lines = zipfile.ZipFile(wheel).read(name).decode().splitlines()
    assert [line for line in lines if line] == ["[console_scripts]", "sb3-pwm = sb3_pwm.cli:main"]


def test_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    python("setup.py", "-q", "sdist", "-d", tmp_path, cwd=source)
    (archive,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path)
    (unpacked,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    python("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, unpacked)
    (rebuilt,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(rebuilt).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize("mode", ["wheel", "editable"])
def test_install_extends_rl_zoo3_and_uninstall_leaves_nothing(mode, source, wheel, venv, tmp_path):
    executable, site_packages = venv
    before = {path.name for path in site_packages.iterdir()}
    target = [wheel] if mode == "wheel" else ["--no-build-isolation", "-e", source]
    pip = ["-m", "pip", "--python", executable, "--disable-pip-version-check"]
    python(*pip, "install", "-q", "--no-deps", "--no-index", "--ignore-installed", *target)

    where = source if mode == "editable" else site_packages
    script = (
        "import rl_zoo3.exp_manager, sb3_pwm.zoo; from rl_zoo3 import ALGOS; "
        "print(ALGOS['pwm'], sb3_pwm.__file__, sb3_pwm.zoo.HYPERPARAMS_FILE, sb3_pwm.zoo.HYPERPARAMS_FILE.is_file())"
    )
    output = python("-c", script, executable=executable, cwd=tmp_path)
    assert "sb3_pwm.pwm.pwm.PWM" in output
    assert output.strip().endswith("pwm.yml True")
    assert output.count(str(where.resolve())) == 2

    python(*pip, "uninstall", "-q", "-y", "sb3-pwm")
    assert {path.name for path in site_packages.iterdir()} == before


def test_constraints_meet_the_requirements(wheel):
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pins = {
        canonicalize_name(pin.name): next(iter(pin.specifier)).version
        for pin in constraints
        if pin.marker is None or pin.marker.evaluate()
    }
    (name,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA")]
    metadata = email.message_from_bytes(zipfile.ZipFile(wheel).read(name))
    for line in metadata.get_all("Requires-Dist"):
        requirement = Requirement(line)
        version = pins.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version), line
