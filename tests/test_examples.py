"""Each example runs, in its smallest form."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside the tests")
def test_quickstart(tmp_path):
    command = [sys.executable, EXAMPLES / "quickstart.py", "--steps", "400", "--out", tmp_path / "new" / "curve"]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "step    250   mean return of 10 episodes" in result.stdout
    assert (tmp_path / "new" / "curve.png").stat().st_size > 5_000
    assert (tmp_path / "new" / "curve.zip").exists()


@pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside the tests")
def test_offline(tmp_path):
    sizes = ["--sac-steps", "1000", "--pretraining-steps", "20", "--updates", "24"]
    command = [sys.executable, EXAMPLES / "offline.py", *sizes, "--out", tmp_path / "new"]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "OfflineDataset(2 tasks, 7 episodes, 2,000 steps" in result.stdout
    for task in ("Pendulum-v1", "Cartpole-swingup"):
        assert f"{task}: data " in result.stdout
        assert (tmp_path / "new" / task / "model.zip").is_file()
    for name in ("returns.png", "world_model.png"):
        assert (tmp_path / "new" / name).stat().st_size > 5_000
