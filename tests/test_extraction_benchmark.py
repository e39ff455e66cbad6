"""The script that makes offline.md's table: a tiny run of all of it."""

import json
import sys
from pathlib import Path

import pytest
import torch as th
from scripts import load_script
from test_offline import episodes

from sb3_pwm import OfflineDataset, WorldModel, WorldModelConfig

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "extraction.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the benchmarks are not beside the tests")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A world model of Cup-catch, and data of Cup-catch and Cup-spin."""
    folder = tmp_path_factory.mktemp("extraction")
    parts = [*episodes("cup-catch", "Cup-catch", 2), *episodes("cup-spin", "Cup-spin", 2)]
    dataset = OfflineDataset.from_episodes(parts)
    dataset.save(folder / "data")
    th.manual_seed(0)
    sizes = dict(latent_dim=16, encoder_dim=16, mlp_dim=16, task_dim=4)
    WorldModel(WorldModelConfig(observation_dim=8, action_dim=2, tasks=("cup-catch",), **sizes)).save(
        folder / "wm.safetensors"
    )
    return folder


def command(folder, monkeypatch, *arguments):
    module = load_script(SCRIPT)
    monkeypatch.setattr(sys, "argv", ["extraction.py", *map(str, arguments), "--out", str(folder / "out")])
    module.main()


def test_runs_table_and_plot(folder, monkeypatch, capsys):
    sources = (
        "--world-model",
        folder / "wm.safetensors",
        "--dataset",
        folder / "data",
        "--threads",
        th.get_num_threads(),
    )
    sizes = ("--updates", 4, "--eval-every", 2, "--episodes", 1, "--params", "{'batch_size': 8}")
    command(folder, monkeypatch, "run", *sources, *sizes, "--tasks", "cup-catch", "--seeds", 0, 1)
    new = ("--tasks", "cup-spin", "--like", "cup-catch", "--seeds", 0, "--online-steps", 3)
    command(folder, monkeypatch, "run", *sources, *sizes, *new)

    result = json.loads((folder / "out/cup-catch/default-seed1.json").read_text())
    assert [row["updates"] for row in result["evaluations"]] == [0, 2, 4]
    assert result["data"]["episodes"] == 2
    assert result["online"] == []
    online = json.loads((folder / "out/cup-spin/default-seed0.json").read_text())["online"]
    assert [row["updates"] for row in online] == [0, 2, 3]

    capsys.readouterr()
    command(folder, monkeypatch, "table")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["cup-catch", "cup-spin"]
    last = [json.loads((folder / f"out/cup-catch/default-seed{seed}.json").read_text()) for seed in (0, 1)]
    returns = [run["evaluations"][-1]["return"] for run in last]
    assert f"**{sum(returns) / 2:.0f}** ({returns[0]:.0f}, {returns[1]:.0f})" in lines[2]
    command(folder, monkeypatch, "plot", "--file", folder / "plot.png")
    assert (folder / "plot.png").stat().st_size > 5_000
