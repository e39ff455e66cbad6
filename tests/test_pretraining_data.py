"""The script that makes the data to pretrain on: a tiny run of all of it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import load_script

from sb3_pwm.data.readers.minari import open_dataset

pytest.importorskip("minari", reason="needs Minari: pip install 'sb3-pwm[minari]'")
pytest.importorskip("metaworld", reason="needs Meta-World: pip install 'sb3-pwm[metaworld]'")

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "pretraining_data.py"


@pytest.fixture
def script(monkeypatch):
    module = load_script(SCRIPT)
    monkeypatch.setattr(module, "DM_CONTROL_DATA_STEPS", 6_000)
    monkeypatch.setattr(module, "META_WORLD_DATA_STEPS", 300)
    return module


def run(script, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["pretraining_data.py", *map(str, arguments)])
    script.main()


def test_trains_collects_and_reports(script, tmp_path, monkeypatch, capsys):
    run(script, monkeypatch, "train", "--out", tmp_path, "--tasks", "pendulum-spin", "--steps", 1_100)
    folder = tmp_path / "runs" / "pwm" / "Pendulum-spin_1"
    assert {"best_model.zip", "replay_buffer.pkl", "evaluations.npz"} <= {file.name for file in folder.iterdir()}
    written = (folder / "best_model.zip").stat().st_mtime_ns
    run(script, monkeypatch, "train", "--out", tmp_path, "--tasks", "Pendulum-spin", "--steps", 1_100)
    assert (folder / "best_model.zip").stat().st_mtime_ns == written  # not again

    tasks = ("--tasks", "pendulum-spin", "mw-reach")
    run(script, monkeypatch, "collect", "--out", tmp_path, "--processes", 1, *tasks)
    dataset = open_dataset(tmp_path / "data" / "mt80" / "pendulum-spin-v0")
    assert dataset.total_steps == 6_000
    behaviors = dataset.storage.metadata["behaviors"]
    stages = [f"rl_model_{steps}_steps.zip:0.3 (1 episodes)" for steps in (220, 440, 660, 880)]
    for part in ("replay:", *stages, "best_model.zip (2 episodes)", "best_model.zip:0.5", "random (1 episodes)"):
        assert part in behaviors
    assert "rl_model_1100_steps" not in behaviors  # the end of the run is no stage on the way
    report = (tmp_path / "report.md").read_text()
    best = np.load(folder / "evaluations.npz")["results"].mean(axis=1).max()
    assert f"| pendulum-spin | 1,100 | {best:.0f} | 12 |" in report
    assert "| mw-reach | - | - | 3 |" in report
    assert "2 data sets, 6,300 agent steps" in report
    assert report in capsys.readouterr().out
    assert (tmp_path / "returns.png").stat().st_size > 1_000


def test_every_task_of_it_exists(script):
    assert len(script.MT30.tasks) == 30
    assert len(set(script.META_WORLD)) >= 10
    assert set(script.META_WORLD) <= set(script.MT80.tasks)
    assert set(script.EASY) <= set(script.MT30.tasks)
