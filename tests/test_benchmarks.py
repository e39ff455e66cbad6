"""The benchmark of learning curves: a tiny run, the queue, tables and pictures; SB3's tests; the start of Python."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from PIL import Image
from scripts import load_script

from sb3_pwm import PWM

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "learning_curves.py"
sys.path.insert(0, str(SCRIPT.parent))  # as for a script that is run there

from curves.meaning import same_meaning  # noqa: E402
from curves.published import DMC21, published_means  # noqa: E402
from curves.queues import parse_runs, preset_runs, select  # noqa: E402
from curves.reading import is_finished, read_curve, read_curves, target_of  # noqa: E402
from curves.runs import COLUMNS, TASK_OF, Run, action_repeat, hyperparams_of, train  # noqa: E402
from curves.tables import make_aggregates, make_table, score_cell  # noqa: E402

learning_curves = load_script(SCRIPT)
true_dynamics = load_script(SCRIPT.with_name("true_dynamics.py"))


def write_curve(out: Path, algo: str, env: str, seed: int, rows: list[tuple[int, float, float]]) -> None:
    """A curve of (agent steps, training seconds, return)."""
    path = out / env / f"{algo}-seed{seed}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for steps, seconds, score in rows:
            writer.writerow(
                {
                    "algo": algo,
                    "env": env,
                    "seed": seed,
                    "agent_steps": steps,
                    "env_steps": 2 * steps,
                    "train_seconds": seconds,
                    "cpu_seconds": seconds / 2,
                    "mean_return": score,
                    "std_return": 0,
                }
            )


@pytest.fixture
def walker(tmp_path: Path) -> Path:
    """Two seeds of PWM and of SAC on Walker-walk; SAC's second seed never reaches 900."""
    write_curve(tmp_path, "pwm", "Walker-walk", 0, [(15_000, 100, 500), (30_000, 200, 920)])
    write_curve(tmp_path, "pwm", "Walker-walk", 1, [(15_000, 100, 910), (30_000, 200, 940)])
    write_curve(tmp_path, "sac", "Walker-walk", 0, [(30_000, 150, 700), (60_000, 300, 905)])
    write_curve(tmp_path, "sac", "Walker-walk", 1, [(30_000, 150, 600), (60_000, 300, 800), (90_000, 450, 850)])
    return tmp_path


@pytest.mark.parametrize("algo", ["pwm", "sac", "crossq"])
def test_run_evaluates_and_writes_the_curve(tmp_path: Path, algo: str) -> None:
    arguments = ["run", "--algo", algo, "--env", "Pendulum-v1", "--seed", "3", "--steps", "160", "--eval-freq", "80"]
    arguments += ["--eval-episodes", "1", "--hyperparams", '{"learning_starts": 120}', "--tag", "tiny"]
    arguments += ["--out", str(tmp_path)]
    assert learning_curves.main(arguments) == 0
    path = tmp_path / "Pendulum-v1" / f"{algo}-tiny-seed3.csv"
    curve = read_curve(path)
    assert curve.iloc[0][["algo", "tag", "seed", "env"]].tolist() == [algo, "tiny", 3, "Pendulum-v1"]
    assert curve["agent_steps"].tolist() == [80, 160]
    assert curve["mean_return"].between(-2000, 0).all()
    assert 0 < curve["train_seconds"][0] < curve["train_seconds"][1]
    assert not np.isnan(curve["critic_loss"].iloc[-1])
    assert np.isnan(curve["imagined_return"].iloc[-1]) == (algo != "pwm")
    assert learning_curves.main(arguments) == 2, "an existing curve is not replaced without --force"


def test_run_of_shac(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--algo", "shac", "--seed", "3", "--steps", "160", "--eval-freq", "100", "--eval-episodes", "1"]
    arguments += ["--hyperparams", '{"n_envs": 8, "horizon": 8}', "--out", str(tmp_path)]
    with pytest.raises(ValueError, match="Torch-hopper-hop, and Pendulum-v1 is none"):
        learning_curves.main([*arguments, "--env", "Pendulum-v1"])
    env = "Torch-double-pendulum-swingup"
    assert learning_curves.main([*arguments, "--env", env]) == 0
    curve = read_curve(tmp_path / env / "shac-seed3.csv")
    assert curve["agent_steps"].tolist() == [128, 192], "whole rollouts of 64 steps"
    assert curve["mean_return"].between(0, 500).all()
    assert 0 < curve["cpu_seconds"][0] < curve["cpu_seconds"][1]
    description = json.loads((tmp_path / env / "shac-seed3.json").read_text())
    assert (description["hyperparameters"]["horizon"], description["hyperparameters"]["gamma"]) == (8, 0.99)
    assert is_finished(Run("shac", env, 3, 160, 100), tmp_path)


def test_shac_beside_pwm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has both at PWM's number of steps, and SHAC at its own; the runs that are finished are skipped."""
    env = "Torch-cartpole-swingup"
    runs = {run.algo: run for run in true_dynamics.all_runs() if (run.env, run.seed) == (env, 0)}
    assert runs["shac"].steps > runs["pwm"].steps == runs["shac"].eval_freq
    write_curve(tmp_path, "pwm", env, 0, [(2_500, 20, 50), (25_000, 200, 400)])
    write_curve(tmp_path, "shac", env, 0, [(26_624, 2, 90), (501_760, 50, 420)])
    assert true_dynamics.main(["table", "--out", str(tmp_path)]) == 0
    row = capsys.readouterr().out.splitlines()[-1]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *(env, "25,000", "**400** (400)", "100 s", "**90** (90)", "1 s", "500,000", "**420** (420)", "25 s")
    ]
    assert true_dynamics.main(["plot", "--out", str(tmp_path)]) == 0
    assert Image.open(tmp_path / "true_dynamics.png").width > 400
    assert true_dynamics.main(["sweep", "--out", str(tmp_path), "--only", f"{env},shac,0"]) == 0
    assert "1 runs, 1 of them finished before" in capsys.readouterr().out


def test_sweep_runs_what_is_missing_and_skips_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["sweep", "--jobs", "1", "--out", str(tmp_path), "--logs", str(tmp_path / "logs")]
    sweep += ["--hyperparams", '{"buffer_size": 1000, "learning_starts": 100}', "sac,Pendulum-v1,0+1,120"]
    assert learning_curves.main([*sweep, "--only", "1"]) == 0
    description = json.loads((tmp_path / "Pendulum-v1" / "sac-seed1.json").read_text())
    assert description["hyperparameters"]["buffer_size"] == 1000
    assert str(tmp_path) not in json.dumps(description)
    capsys.readouterr()
    assert learning_curves.main([*sweep, "--dry-run"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["to", "done"]


def test_a_run_that_diverged_keeps_its_evaluations_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    updates = iter(range(10_000))
    original = PWM._update_critics

    def diverge(self: PWM, *args: Any) -> None:
        if next(updates) == 50:
            with th.no_grad():
                next(iter(self.critic.parameters())).fill_(float("nan"))
        original(self, *args)

    monkeypatch.setattr(PWM, "_update_critics", diverge)
    run = Run("pwm", "Pendulum-v1", 0, 200, 50, eval_episodes=1, hyperparams='{"learning_starts": 20}')
    train(run, tmp_path)
    assert "DIVERGED after" in capsys.readouterr().out
    curves = read_curves(tmp_path)
    assert curves["agent_steps"].tolist() == [50]
    assert curves["diverged"].all()
    assert is_finished(run, tmp_path), "it would diverge again"
    assert score_cell(curves, 200).endswith(", diverged at 50)")


def test_evaluations_have_the_same_starts(tmp_path: Path) -> None:
    returns = []
    for seed in (0, 1):  # before the first update, a policy of zeros
        run = Run("pwm", "Pendulum-v1", seed, 80, 40, eval_episodes=2, hyperparams='{"learning_starts": 1000}')
        train(run, tmp_path)
        curve = read_curve(run.csv_path(tmp_path))
        assert curve["mean_return"][0] == curve["mean_return"][1]
        returns.append(curve["mean_return"][0])
    # Untrained actors differ by little more than nothing, other start states by hundreds.
    assert returns[0] == pytest.approx(returns[1], abs=20)


def test_no_run_starts_after_the_given_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["sweep", "--jobs", "1", "--out", str(tmp_path), "--logs", str(tmp_path / "logs"), "--minutes", "0"]
    assert learning_curves.main([*sweep, "pwm,dmc21,0,50000"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "21 runs, 0 of them finished before",
        "0 minutes are over: 21 runs are left for the next call",
    ]
    assert not list(tmp_path.rglob("*.csv"))


def test_published_scores_beside_the_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert all(env in gym.registry for env in DMC21)
    assert all(len(published_means(env, 100_000)) > 10 for env in (*DMC21, "Hopper-v5", "Dog-run"))
    write_curve(tmp_path, "pwm", "Walker-walk", 0, [(25_000, 100, 500), (50_000, 200, 920)])
    write_curve(tmp_path, "pwm", "Cartpole-swingup", 0, [(50_000, 200, 800)])
    write_curve(tmp_path, "pwm", "Ant-v5", 0, [(100_000, 200, 5_000)])
    write_curve(tmp_path, "sac", "Walker-walk", 0, [(50_000, 150, 700)])
    compare = ["compare", "--out", str(tmp_path), "--labels", "PWM", "SAC", "--methods", "tdmpc2"]
    assert learning_curves.main(compare) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| | PWM | SAC | tdmpc2 |",
        "|---|---|---|---|",
        "| Cartpole-swingup | **800** (800) | - | 839 |",
        "| Walker-walk | **920** (920) | **700** (700) | 962 |",
        "| Ant-v5 | **5000** (5000) | - | - |",
        "| mean of 2 tasks of DMControl | 860 | 700 (1 of 2) | 901 |",
    ]
    with pytest.raises(SystemExit, match="No scores of dreamer are in online_anchors"):
        learning_curves.main([*compare, "--methods", "dreamer"])


def test_hyperparameters_come_from_the_zoos_files() -> None:
    assert hyperparams_of("pwm", "Walker-walk")[1] == "hyperparams/pwm.yml, Walker-walk"
    assert hyperparams_of("pwm", "Fish-swim")[1] == "hyperparams/pwm.yml, default"
    hopper, source = hyperparams_of("sac", "Hopper-v5")
    assert hopper["learning_starts"] == 10_000
    assert source == "rl-zoo3's sac.yml, Hopper-v4"
    walker, source = hyperparams_of("sac", "Walker-walk")
    assert walker["learning_starts"] == 1_000
    assert source.startswith("SB3's SAC defaults")
    assert hyperparams_of("crossq", "Walker-walk")[0]["learning_starts"] == 1_000
    assert hyperparams_of("tqc", "Pendulum-v1")[1] == "rl-zoo3's tqc.yml, Pendulum-v1"
    assert hyperparams_of("tqc", "LunarLander-v3")[1] == "SB3's TQC defaults"
    assert [action_repeat(env) for env in ("Walker-walk", "Hopper-v5")] == [2, 1]


def test_preset_runs_sac_longer_until_it_reaches_the_target() -> None:
    runs = preset_runs([0, 1, 2], sac_factor=3)
    assert len(runs) == (5 + 2) * 2 * 3  # two of them from images
    sac = select(runs, "sac,Walker-walk,0")[0]
    assert (sac.steps, sac.stop_after, sac.stop_at) == (90_000, 30_000, 900)
    assert [sac.ends(20_000, 950.0), sac.ends(30_000, 950.0), sac.ends(60_000, 800.0)] == [False, True, False]
    with pytest.raises(SystemExit, match="Walker-wlak"):
        select(runs, "Walker-wlak")


def test_unfinished_curves_are_run_again(walker: Path) -> None:
    assert is_finished(Run("pwm", "Walker-walk", 0, 30_000, 1_000), walker)
    assert not is_finished(Run("pwm", "Walker-walk", 0, 40_000, 1_000), walker)
    assert not is_finished(Run("pwm", "Walker-walk", 2, 30_000, 1_000), walker)
    path = walker / "Walker-walk" / "pwm-seed0.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\npwm,Walker-walk,0,,30000,60")  # killed midway
    assert not is_finished(Run("pwm", "Walker-walk", 0, 30_000, 1_000), walker)


def test_curves_of_other_hyperparameters_are_run_again(walker: Path) -> None:
    run = Run("pwm", "Walker-walk", 0, 30_000, 1_000)
    hyperparams, _ = hyperparams_of("pwm", "Walker-walk")
    description = run.csv_path(walker).with_suffix(".json")
    description.write_text(json.dumps({"hyperparameters": {**hyperparams, "n_timesteps": 7}}))
    assert is_finished(run, walker)
    description.write_text(json.dumps({"hyperparameters": {**hyperparams, "horizon": 77}}))
    assert not is_finished(run, walker)


def test_table(walker: Path) -> None:
    row = make_table(read_curves(walker)).splitlines()[-1]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # PWM reaches 900 after 200 and 100 s; SAC after 300 s and not within 450 s: at least 375 / 150 = 2.5.
    assert cells == [
        "Walker-walk",
        "60,000",
        "**930** (920, 940)",
        "**650** (700, 600)",
        "900",
        "150 s",
        "300 s (1 of 2)",
        "> 2.5",
    ]


def test_table_of_the_score_that_sac_has_at_a_step(walker: Path) -> None:
    table = make_table(read_curves(walker), sac_at=120_000)
    cells = [cell.strip() for cell in table.splitlines()[-1].strip("|").split("|")]
    # SAC's seeds have 905 and 800 then: PWM passes their mean after 200 and 100 s, SAC after 300 s and not within 450.
    assert cells == [
        "Walker-walk",
        "120,000",
        "**930** (920 at 60,000, 940 at 60,000)",
        "**852** (905, 800)",
        "852 (SAC's)",
        "150 s",
        "300 s (1 of 2)",
        "> 2.5",
    ]
    # Nobody ran so far: no row but the head
    assert len(make_table(read_curves(walker), sac_at=400_000).splitlines()) == 2


def test_target_without_a_number_is_sacs_score(tmp_path: Path) -> None:
    for seed, score in ((0, 1000.0), (1, 2000.0)):
        write_curve(tmp_path, "sac", "Hopper-v5", seed, [(50_000, 100, score)])
    curves = read_curves(tmp_path)
    assert target_of(TASK_OF["Hopper-v5"], curves) == 1500


def test_plot(walker: Path) -> None:
    assert learning_curves.main(["plot", "--out", str(walker)]) == 0
    assert {path.name for path in walker.glob("*.png")} == {"Walker-walk.png", "overview.png"}
    picture = np.asarray(Image.open(walker / "Walker-walk.png").convert("RGB")).astype(int)
    for color in ((11, 98, 164), (209, 105, 26)):  # the curves of PWM and of SAC, in both panels
        drawn = np.abs(picture - color).max(axis=-1) < 12
        assert min(drawn[:, : picture.shape[1] // 2].sum(), drawn[:, picture.shape[1] // 2 :].sum()) > 100


def test_aggregates_of_tasks_by_hand(tmp_path: Path) -> None:
    for env, pwm, sac in (("Walker-walk", 900.0, 300.0), ("Cartpole-swingup", 700.0, 800.0)):
        for seed in (0, 1):
            write_curve(tmp_path, "pwm", env, seed, [(30_000, 100, pwm)])
            write_curve(tmp_path, "sac", env, seed, [(30_000, 100, sac)])
    write_curve(tmp_path, "pwm", "Pendulum-v1", 0, [(3_000, 100, -100.0)])  # of another scale: left out
    lines = make_aggregates(read_curves(tmp_path)).splitlines()
    assert lines[2] == "| PWM | 0.80 (0.80 to 0.80) | 0.80 (0.80 to 0.80) | 0.80 (0.80 to 0.80) | 2 |"
    assert lines[3].startswith("| SAC | 0.55 (0.55 to 0.55) |")
    assert lines[-1] == "2 tasks. Probability that PWM's score is above SAC's: 0.50."


def test_notations_of_the_same_networks_mean_the_same() -> None:
    sizes = "latent_dim=64, world_model_kwargs=dict(encoder_dim=192, mlp_dim=192)"
    old = f"dict(activation_fn=nn.SiLU, {sizes}, net_arch=[128])"
    new = "dict(activation_fn=nn.SiLU, net_arch=[128])"
    assert same_meaning({"policy_kwargs": old, "critic_epochs": 2}, {"policy_kwargs": new, "n_critic_epochs": 2})
    assert not same_meaning({"policy_kwargs": old}, {"policy_kwargs": new.replace("[128]", "[64]")})
    for world_model in ("200K", dict(size="200K", latent_dim=64)):
        assert same_meaning({"policy_kwargs": old}, {"policy_kwargs": new, "world_model": world_model})
    for world_model in ("1M", dict(latent_dim=128)):
        assert not same_meaning({"policy_kwargs": old}, {"policy_kwargs": new, "world_model": world_model})


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    assert [run.seed for run in parse_runs("pwm,Walker-walk,0-2+5,30000")] == [0, 1, 2, 5]
    for arguments in (
        ["sweep", "dqn,CartPole-v1,0,10"],
        ["sweep", "pwm,Pendulum-v1,0"],
        ["run", "--algo", "pwm", "--env", "Pendulum-v1", "--steps", "10", "--hyperparams", "[1]"],
    ):
        with pytest.raises(SystemExit):
            learning_curves.main(arguments)


def test_sb3_suite_runs_the_archives_tests_with_pwm(tmp_path):
    tests = """
        import pytest
        from stable_baselines3 import SAC

        @pytest.mark.parametrize("model_class", [SAC])
        def test_whose(model_class):
            assert model_class.__module__.startswith("sb3_pwm")

        def test_sac_fails():
            raise ValueError("no | such luck")

        def test_of_another_algorithm():
            assert False
    """
    (tmp_path / "test_run.py").write_text(textwrap.dedent(tests))
    (tmp_path / "setup.py").write_text("")
    with tarfile.open(tmp_path / "source.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "test_run.py", "stable_baselines3-0/tests/test_run.py")
        archive.add(tmp_path / "setup.py", "stable_baselines3-0/setup.py")
    command = [sys.executable, SCRIPT.with_name("sb3_suite.py"), "--source", tmp_path / "source.tar.gz", "--jobs", "1"]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "| test_run | test_whose[PWM] | passed |  |" in result.stdout
    assert "| test_run | test_sac_fails | failed | ValueError: no / such luck |" in result.stdout
    assert "test_of_another_algorithm" not in result.stdout
    assert "1 failed, 1 passed" in result.stdout.splitlines()[-1]


def test_startup_prints_a_ratio() -> None:
    script = SCRIPT.with_name("startup.py")
    command = [sys.executable, str(script), "--rounds", "3"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    pattern = r"with it (\d+\.\d) ms, without (\d+\.\d) ms, ratio \d+\.\d{3} \(medians of 3\)\n"
    found = re.fullmatch(pattern, output)
    assert found, output
    assert min(map(float, found.groups())) > 1.0  # no interpreter starts in a millisecond
