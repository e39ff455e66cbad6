"""The script that makes data for pretraining: a tiny run of both commands."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import load_script

from sb3_pwm.data.readers.minari import open_dataset

pytest.importorskip("minari", reason="needs Minari: pip install 'sb3-pwm[minari]'")
pytest.importorskip("metaworld", reason="needs Meta-World: pip install 'sb3-pwm[metaworld]'")

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "pretraining_data.py"


@pytest.fixture
def script(monkeypatch):
    module = load_script(SCRIPT)
    monkeypatch.setattr(module, "DM_CONTROL_DATA_STEPS", 5_000)
    monkeypatch.setattr(module, "N_STAGES", 2)
    monkeypatch.setattr(module, "META_WORLD_DATA_STEPS", 300)
    return module


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["pretraining_data.py", *map(str, arguments)])
    script.main()


def test_trains_collects_and_reports(script, tmp_path, monkeypatch, capsys):
    run(script, monkeypatch, "train", "--out", tmp_path, "--tasks", "pendulum-spin", "--steps", 600)
    folder = tmp_path / "runs" / "pwm" / "Pendulum-spin_1"
    assert {"best_model.zip", "replay_buffer.pkl", "evaluations.npz"} <= {file.name for file in folder.iterdir()}
    written = (folder / "best_model.zip").stat().st_mtime_ns
    run(script, monkeypatch, "train", "--out", tmp_path, "--tasks", "Pendulum-spin", "--steps", 600)
    assert (folder / "best_model.zip").stat().st_mtime_ns == written  # not again

    tasks = ("--tasks", "pendulum-spin", "mw-reach")
    run(script, monkeypatch, "collect", "--out", tmp_path, "--processes", 1, *tasks)
    dataset = open_dataset(tmp_path / "data" / "mt80" / "pendulum-spin-v0")
    assert dataset.total_steps == 5_000
    behaviors = dataset.storage.metadata["behaviors"]
    stages = [f"rl_model_{steps}_steps.zip:0.3 (1 episodes)" for steps in (300,)]
    for part in ("replay:", *stages, "best_model.zip (", "best_model.zip:0.5", "random ("):
        assert part in behaviors
    assert "rl_model_600_steps" not in behaviors  # the end of the run is no stage on the way
    report = (tmp_path / "report.md").read_text()
    best = np.load(folder / "evaluations.npz")["results"].mean(axis=1).max()
    assert f"| pendulum-spin | 600 | {best:.0f} | 10 |" in report
    assert "| mw-reach | - | - | 3 |" in report
    assert "2 data sets, 5,300 agent steps" in report
    assert report in capsys.readouterr().out
    picture = np.asarray(Image.open(tmp_path / "returns.png").convert("RGB")).astype(int)
    assert (np.abs(picture - [31, 119, 180]).max(axis=-1) < 30).sum() > 400  # the histograms


def test_every_task_of_it_exists(script):
    assert len(script.MT30.tasks) == 30
    assert len(set(script.META_WORLD)) >= 10
    assert set(script.META_WORLD) <= set(script.MT80.tasks)
    assert set(script.EASY) <= set(script.MT30.tasks)
