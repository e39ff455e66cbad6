"""The benchmark of the policy's optimizers: tiny runs, what is skipped, the table and the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch as th
from PIL import Image
from scripts import load_script
from test_offline import SIZES, episodes

from sb3_pwm import OfflineDataset, WorldModel, WorldModelConfig

policy_optimizers = load_script(Path(__file__).resolve().parent.parent / "benchmarks" / "policy_optimizers.py")

VARIANTS = (
    "{'adam': {'batch_size': 32}, 'lbfgs': {'batch_size': 32, 'policy_optimizer': 'lbfgs', "
    "'policy_optimizer_kwargs': {'max_iter': 3, 'max_eval': 4}}}"
)


def test_runs_end_at_both_budgets_and_are_skipped_when_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = OfflineDataset.from_episodes(episodes("pendulum-v1", "Pendulum-v1", 6))
    dataset.save(tmp_path / "data" / "pendulum-v1")
    th.manual_seed(0)
    model = WorldModel(WorldModelConfig(observation_dim=3, action_dim=1, tasks=dataset.tasks, **SIZES))
    model.save(tmp_path / "wm.safetensors")
    out = tmp_path / "out"
    arguments = ["run", "--world-model", str(tmp_path / "wm.safetensors"), "--data", str(tmp_path / "data" / "{task}")]
    arguments += ["--tasks", "pendulum-v1", "--seeds", "0", "--evaluations", "24", "--cpu-seconds", "0.01"]
    arguments += ["--eval-every", "8", "--eval-episodes", "1", "--variants", VARIANTS, "--out", str(out)]
    assert policy_optimizers.main(arguments) == 0
    adam = pd.read_csv(out / "pendulum-v1" / "adam-seed0.csv")
    assert adam["evaluations"].tolist() == adam["updates"].tolist() == [0, 8, 16, 24]
    lbfgs = pd.read_csv(out / "pendulum-v1" / "lbfgs-seed0.csv")
    assert (lbfgs["evaluations"] >= 2 * lbfgs["updates"]).all(), "a line search evaluates at least one more point"
    assert lbfgs["evaluations"].iloc[-2] < 24 <= lbfgs["evaluations"].iloc[-1]
    assert adam["return"].iloc[0] == lbfgs["return"].iloc[0], "the same policy to begin with"
    assert adam["cpu_seconds"].iloc[-1] > 0.01
    capsys.readouterr()

    monkeypatch.setattr(policy_optimizers, "extract", lambda run, out: pytest.fail("was made before"))
    assert policy_optimizers.main(arguments) == 0
    assert "2 runs, 2 of them finished before" in capsys.readouterr().out
    assert policy_optimizers.main(["report", "--out", str(out), "--evaluations", "16", "--cpu-seconds", "1000"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| task | optimizer | seeds | 16 evaluations | 1000 CPU seconds |"
    assert printed[2] == f"| pendulum-v1 | adam | 1 | {adam['return'][2]:.0f} | {adam['return'][3]:.0f} |"
    assert np.asarray(Image.open(out / "returns.png").convert("RGB")).std() > 0
    assert len(pd.read_csv(out / "evaluations.csv")) == len(adam) + len(lbfgs)


def test_a_budget_counts_the_last_evaluation_within_it() -> None:
    rows = pd.DataFrame(
        {
            "task": "a",
            "variant": ["x", "x", "x", "y", "y"],
            "seed": [0, 0, 1, 0, 0],
            "evaluations": [10, 20, 15, 12, 21],
            "cpu_seconds": [1.0, 2.0, 1.5, 1.2, 2.1],
            "return": [1.0, 2.0, 5.0, 7.0, 9.0],
        }
    )
    assert policy_optimizers.at_budget(rows, "evaluations", 20).to_dict() == {
        ("a", "x", 0): 2,
        ("a", "x", 1): 5,
        ("a", "y", 0): 7,
    }
    assert policy_optimizers.table(rows, 20, 1.5).splitlines()[2:] == [
        "| a | x | 2 | 4 ± 2 | 3 ± 3 |",
        "| a | y | 1 | 7 | 7 |",
    ]


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no results below"):
        policy_optimizers.main(["report", "--out", str(tmp_path)])
