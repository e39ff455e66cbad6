"""The benchmark of other offline learners: data, evaluation, results and arguments. d3rlpy is not needed."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from scripts import load_script
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pwm import PWM, OfflineDataset
from sb3_pwm.data.types import Episode, SourceEpisode

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "offline_peers.py"
sys.path.insert(0, str(SCRIPT.parent))  # as for a script that is run there

from peers.data import best_episodes, load_task, to_arrays  # noqa: E402
from peers.evaluation import evaluate, normalized  # noqa: E402
from peers.runs import PeerRun, make_row, read_rows, write_row  # noqa: E402
from peers.tables import make_table, read_results  # noqa: E402

offline_peers = load_script(SCRIPT)


def episode(rewards: list[float], terminated: bool, first: float = 0.0) -> Episode:
    """An episode whose observations count up from ``first``."""
    steps = len(rewards)
    observations = first + np.arange(steps + 1, dtype=np.float32)[:, None]
    return Episode(observations, np.full((steps, 1), 0.5, np.float32), np.array(rewards, np.float32), terminated)


def dataset(*episodes: Episode, task: str = "task") -> OfflineDataset:
    """The episodes as a data set of one task."""
    return OfflineDataset.from_episodes(SourceEpisode(task, each, f"episode {n}") for n, each in enumerate(episodes))


def test_only_truncated_episodes_get_a_row_for_their_last_observation() -> None:
    data = dataset(episode([1, 2], True), episode([3, 4, 5], False, first=10.0), episode([6], True, first=20.0))
    arrays = to_arrays(data.data[0])
    assert arrays.observations[:, 0].tolist() == [0, 1, 10, 11, 12, 13, 20]
    assert arrays.actions[:, 0].tolist() == [0.5, 0.5, 0.5, 0.5, 0.5, 0, 0.5]
    assert arrays.rewards.tolist() == [1, 2, 3, 4, 5, 0, 6]
    assert arrays.terminals.tolist() == [0, 1, 0, 0, 0, 0, 1]
    assert arrays.timeouts.tolist() == [0, 0, 0, 0, 0, 1, 0]


def test_best_episodes_keep_their_order() -> None:
    returns = [5.0, 1.0, 9.0, 2.0, 3.0, 8.0]
    data = dataset(*(episode([value], True) for value in returns)).data[0]
    assert best_episodes(data, 0.5).returns.tolist() == [5, 9, 8]
    assert best_episodes(data, 0.01).returns.tolist() == [9], "at least one"
    assert best_episodes(data, 1.0).returns.tolist() == returns


def test_data_of_several_tasks_needs_a_name(tmp_path: Path) -> None:
    one, other = (episode([1.0], True), episode([2.0], True))
    OfflineDataset.from_episodes([SourceEpisode("one", one, "a"), SourceEpisode("other", other, "b")]).save(tmp_path)
    with pytest.raises(ValueError, match="Choose one task with --task: the data has one, other"):
        load_task([str(tmp_path)])
    assert load_task([str(tmp_path)], "other").returns.tolist() == [2]
    with pytest.raises(ValueError, match="one replay buffer, got 2"):
        load_task(["a.pkl", "b.pkl"])
    with pytest.raises(SystemExit, match=r"error: .*missing"):
        offline_peers.main(["run", "--env", "Pendulum-v1", "--data", str(tmp_path / "missing"), "--out", str(tmp_path)])


def test_data_of_a_replay_buffer(tmp_path: Path) -> None:
    model = PWM("MlpPolicy", "Pendulum-v1", learning_starts=1_000, buffer_size=1_000, world_model="200K")
    model.learn(450)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    data = load_task([str(tmp_path / "buffer.pkl")])
    assert data.lengths.tolist() == [200, 200]
    assert np.flatnonzero(to_arrays(data).timeouts).tolist() == [200, 401]


def test_evaluation_plays_each_seed_to_its_end() -> None:
    env = gym.make("Pendulum-v1")
    expected = []
    for seed in (1000, 1001, 1002):
        observation, _ = env.reset(seed=seed)
        total, truncated = 0.0, False
        while not truncated:
            observation, reward, _, truncated, _ = env.step(observation[1:2].astype(np.float32))
            total += float(reward)
        expected.append(total)
    assert evaluate(lambda observations: observations[:, 1:2], "Pendulum-v1", 3) == pytest.approx(expected)


def test_episodes_end_at_different_steps() -> None:
    falls = evaluate(lambda observations: np.zeros(len(observations), np.int64), "CartPole-v1", 10)
    assert len(set(falls)) > 1
    assert max(falls) < 20, "a cart that is always pushed to one side falls at once"


@pytest.mark.parametrize("normalize", [False, True])
def test_evaluate_command_has_the_returns_of_the_saved_policy(tmp_path: Path, normalize: bool) -> None:
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    env = VecNormalize(env, norm_reward=False) if normalize else env
    model = PWM("MlpPolicy", env, learning_starts=1_000, world_model="200K", seed=0)
    model.learn(30)
    model.save(tmp_path / "model.zip")
    arguments = ["evaluate", "--env", "Pendulum-v1", "--model", str(tmp_path / "model.zip"), "--out", str(tmp_path)]
    if normalize:
        env.save(str(tmp_path / "normalize.pkl"))
        arguments += ["--vec-normalize", str(tmp_path / "normalize.pkl")]
    assert offline_peers.main([*arguments, "--seed", "4", "--cpu-seconds", "60"]) == 0
    row = read_rows(tmp_path / "Pendulum-v1" / "pwm-60s-seed4.csv").iloc[-1]
    assert row[["task", "algorithm", "seed", "update", "cpu_seconds"]].tolist() == ["Pendulum-v1", "pwm", 4, 30, 60]

    single = gym.make("Pendulum-v1")
    observation, _ = single.reset(seed=1000)
    total, truncated = 0.0, False
    while not truncated:
        seen = env.normalize_obs(observation) if isinstance(env, VecNormalize) else observation
        observation, reward, _, truncated, _ = single.step(model.predict(seen, deterministic=True)[0])
        total += float(reward)
    returns = json.loads(row["returns"])
    assert len(returns) == 10
    assert returns[0] == pytest.approx(total, abs=0.1)
    assert row["return"] == pytest.approx(np.mean(returns), abs=1e-3)


def write_rows(out: Path, algorithm: str, limit: str, seed: int, rows: list[tuple[int, float | None, float]]) -> Path:
    """Evaluations of (update, CPU seconds, return)."""
    path = out / "Hopper-v5" / f"{algorithm}-{limit}-seed{seed}.csv"
    for update, seconds, score in rows:
        write_row(path, make_row("Hopper-v5", algorithm, limit, seed, update, seconds, [score - 1.0, score + 1.0]))
    return path


def test_table_has_the_last_evaluations(tmp_path: Path) -> None:
    write_rows(tmp_path, "td3bc", "60s", 0, [(1000, 30.0, 5.0), (2000, 60.0, 1000.0)])
    killed = write_rows(tmp_path, "td3bc", "60s", 1, [(3000, 62.0, 1200.0)])
    with killed.open("a") as file:
        file.write('Hopper-v5,td3bc,60s,1,4000,90,7.0,"[7')
    write_rows(tmp_path, "bc", "500", 0, [(500, 4.0, -20.27)])
    write_rows(tmp_path, "pwm", "500", 0, [(500, None, 3234.3)])
    assert make_table(read_results(tmp_path)).splitlines()[2:] == [
        "| Hopper-v5 | BC | 500 | 1 | -20 | 0.0 | 500 | 4 |",
        "| Hopper-v5 | pwm | 500 | 1 | 3234 | 100.0 | 500 | - |",
        "| Hopper-v5 | TD3+BC | 60s | 2 | 1100 ± 141 | 34.4 | 2,500 | 61 |",
    ]
    assert normalized("Pendulum-v1", -200.0) is None
    with pytest.raises(SystemExit, match="run the benchmark first"):
        offline_peers.main(["table", "--out", str(tmp_path / "nothing")])


def test_runs_of_the_arguments() -> None:
    common = ["run", "--env", "Hopper-v5", "--data", "mujoco/hopper/medium-v0", "--seeds", "0", "1"]
    by_length = offline_peers.make_runs(offline_peers.make_parser().parse_args(common))
    assert [(run.algorithm, run.seed) for run in by_length[3:6]] == [("bc10", 0), ("td3bc", 1), ("iql", 1)]
    assert {(run.updates, run.cpu_seconds, run.limit) for run in by_length} == {(500_000, None, "500000")}
    assert by_length[0].data == ("mujoco/hopper/medium-v0",), "a Minari id is not a path"
    assert (by_length[0].ends(499_999, 1e9), by_length[0].ends(500_000, 0.0)) == (False, True)
    arguments = [*common, "--cpu-seconds", "90", "--algorithms", "iql"]
    by_time = offline_peers.make_runs(offline_peers.make_parser().parse_args(arguments))
    assert {(run.updates, run.cpu_seconds, run.limit) for run in by_time} == {(None, 90.0, "90s")}
    assert (by_time[0].ends(10**9, 89.9), by_time[0].ends(1, 90.0)) == (False, True)
    assert PeerRun.from_json(json.dumps(dataclasses.asdict(by_time[0]))) == by_time[0]
    both = ["--cpu-seconds", "1", "--updates", "1"]
    for wrong in (both, ["--updates", "0"], ["--cpu-seconds", "nan"], ["--algorithms", "cql"]):
        with pytest.raises(SystemExit):
            offline_peers.main([*common, *wrong])


def test_finished_runs_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = PeerRun("bc", "Hopper-v5", ("data",), None, 0, 500, None, 100)
    path = write_rows(tmp_path, "bc", "500", 0, [(100, 1.0, 5.0), (500, 5.0, 6.0)])
    assert not run.is_finished(tmp_path), "nothing says what the results are of"
    path.with_suffix(".json").write_text(json.dumps({"run": dataclasses.asdict(run)}))
    assert run.is_finished(tmp_path)
    assert not dataclasses.replace(run, data=("other data",)).is_finished(tmp_path)
    arguments = ["run", "--env", "Hopper-v5", "--data", "data", "--algorithms", "bc", "--updates", "500"]
    assert offline_peers.main([*arguments, "--eval-freq", "100", "--out", str(tmp_path)]) == 0
    assert "1 runs, 1 of them finished before" in capsys.readouterr().out
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert not run.is_finished(tmp_path)
