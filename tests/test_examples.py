"""Each example runs, in its smallest form."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside the tests")


def run_example(name, *arguments, folder):
    command = [sys.executable, EXAMPLES / name, *arguments]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_quickstart(tmp_path):
    output = run_example("quickstart.py", "--steps", "400", "--out", tmp_path / "new" / "curve", folder=tmp_path)
    assert "step    250   mean return of 10 episodes" in output
    assert (tmp_path / "new" / "curve.png").stat().st_size > 5_000
    assert (tmp_path / "new" / "curve.zip").exists()


def test_offline(tmp_path):
    sizes = ["--sac-steps", "1000", "--pretraining-steps", "20", "--updates", "24", "--episodes", "1"]
    output = run_example("offline.py", *sizes, "--out", tmp_path / "new", folder=tmp_path)
    assert "OfflineDataset(2 tasks, 7 episodes, 2,000 steps" in output
    for task in ("Pendulum-v1", "Cartpole-swingup"):
        assert f"{task}: data " in output
        assert (tmp_path / "new" / task / "model.zip").is_file()
    for name in ("returns.png", "world_model.png"):
        assert (tmp_path / "new" / name).stat().st_size > 5_000


@pytest.mark.parametrize("observations", ["pixels", "dict"])
def test_pixels(tmp_path, observations):
    arguments = ["--observations", observations, "--steps", "310", "--out", "model"]
    output = run_example("pixels.py", *arguments, folder=tmp_path)
    assert "Eval num_timesteps=310" in output
    assert (tmp_path / "model.zip").is_file()


def test_resume(tmp_path):
    assert "A new run" in run_example("resume.py", "--steps", "330", "--every", "160", folder=tmp_path)
    output = run_example("resume.py", "--steps", "340", "--every", "160", folder=tmp_path)
    # SB3 calls back before it stores a step, so that the step itself is not in the buffer.
    assert "Going on after step 320, with 319 steps to replay" in output
    assert "340 steps, 39 updates" in output


def test_export(tmp_path):
    output = run_example("export.py", "--steps", "310", folder=tmp_path)
    differences = re.findall(r"(ONNX|TorchScript): largest difference from predict\(\) (\S+)", output)
    assert [name for name, _ in differences] == ["ONNX", "TorchScript"]
    assert all(float(difference) < 1e-5 for _, difference in differences)
