"""Each example runs with small numbers of steps, one of them in a new process."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import run_script_here
from stable_baselines3 import SAC

from sb3_pwm import PWM, WorldModel

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside the tests")


def drawn(path, color):
    """:return: Number of pixels that have nearly this color."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return (np.abs(picture - color).max(axis=-1) < 30).sum()


def test_quickstart(tmp_path):
    command = [sys.executable, EXAMPLES / "quickstart.py", "--steps", "330", "--out", tmp_path / "new" / "curve"]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "step    250   mean return of 10 episodes" in result.stdout
    assert drawn(tmp_path / "new" / "curve.png", (31, 119, 180)) > 10  # the curve: a single point
    assert PWM.load(tmp_path / "new" / "curve.zip", device="cpu").num_timesteps == 330


def test_pretrained(tmp_path):
    arguments = ["--env", "Cartpole-swingup", "--updates", 5, "--episodes", 1, "--out", tmp_path / "new"]
    output = run_script_here(EXAMPLES / "pretrained.py", *arguments, folder=tmp_path)
    assert re.search(r"Cartpole-swingup: return of 1 episodes -?\d+; before the 5 updates -?\d+; of the data", output)
    assert PWM.load(tmp_path / "new" / "Cartpole-swingup.zip", device="cpu").n_updates == 5
    with Image.open(tmp_path / "new" / "Cartpole-swingup.gif") as picture:
        assert picture.n_frames > 100
        frames = []
        for number in (0, picture.n_frames - 1):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")).astype(int))
    assert np.abs(frames[0] - frames[1]).max() > 50  # something moves


def test_offline(tmp_path, monkeypatch):
    monkeypatch.setattr(
        SAC, "train", lambda self, gradient_steps, batch_size: None
    )  # the data of the initial policy is enough
    sizes = ["--sac-steps", 1000, "--pretraining-steps", 20, "--updates", 4, "--evaluations", 2, "--episodes", 1]
    output = run_script_here(EXAMPLES / "offline.py", *sizes, "--out", tmp_path / "new", folder=tmp_path)
    assert "OfflineDataset(2 tasks, 7 episodes, 2,000 steps" in output
    for task in ("Pendulum-v1", "Cartpole-swingup"):
        assert PWM.load(tmp_path / "new" / task / "model.zip", device="cpu").n_updates == 4
        evaluations = np.load(tmp_path / "new" / task / "evaluations.npz")
        assert evaluations["timesteps"].tolist() == [2, 4]
        assert f"{task}: returns of the data " in output
        assert f"of PWM after 4 updates {evaluations['results'][-1].mean():.0f}\n" in output
    assert WorldModel.load(tmp_path / "new" / "world_model.safetensors").config.tasks[0] == "Pendulum-v1"
    assert drawn(tmp_path / "new" / "returns.png", (31, 119, 180)) > 100
    assert drawn(tmp_path / "new" / "world_model.png", (214, 39, 40)) > 100


@pytest.mark.parametrize("observations", ["pixels", "dict"])
def test_pixels(tmp_path, observations):
    arguments = ["--observations", observations, "--steps", 305, "--out", "model"]
    output = run_script_here(EXAMPLES / "pixels.py", *arguments, folder=tmp_path)
    assert "Eval num_timesteps=305" in output
    assert PWM.load(tmp_path / "model.zip", device="cpu").n_updates > 0


def test_resume(tmp_path):
    script = EXAMPLES / "resume.py"
    assert "A new run" in run_script_here(script, "--steps", 330, "--every", 160, folder=tmp_path)
    output = run_script_here(script, "--steps", 340, "--every", 160, folder=tmp_path)
    # SB3 calls back before it stores a step, so that the step itself is not in the buffer.
    assert "Going on after step 320, with 319 steps to replay" in output
    assert "340 steps, 39 updates" in output


def test_export(tmp_path):
    output = run_script_here(EXAMPLES / "export.py", "--steps", 305, folder=tmp_path)
    differences = re.findall(r"(ONNX|TorchScript): largest difference from predict\(\) (\S+)", output)
    assert [name for name, _ in differences] == ["ONNX", "TorchScript"]
    assert all(float(difference) < 1e-5 for _, difference in differences)
