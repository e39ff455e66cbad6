"""Data collection as a user meets it: the command, killed and resumed, and what Minari then reads."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest

from sb3_pwm import PWM
from sb3_pwm.data.collect import (
    Behaviour,
    Job,
    behaviour_of_each_episode,
    collect,
    collect_task,
    make_policy,
    write_dataset,
)

minari = pytest.importorskip("minari", reason="needs Minari: pip install 'sb3-pwm[minari]'")


def command(*arguments, **options):
    line = [sys.executable, "-m", "sb3_pwm.data.collect", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False, **options)


def load(out, dataset_id, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out))
    return minari.load_dataset(dataset_id)


def test_command_collects_what_the_environment_gives(tmp_path, monkeypatch):
    process = command("--tasks", "cup-spin", "Pendulum-swingup", "--steps", 600, "--out", tmp_path, "--processes", 2)
    assert process.returncode == 0, process.stderr
    assert "cup-spin" in process.stdout
    assert "1,000" in process.stdout  # two whole episodes of 500 steps
    for task, env_id in (("cup-spin", "Cup-spin"), ("pendulum-swingup", "Pendulum-swingup")):
        dataset = load(tmp_path, f"sb3-pwm/{task}-v0", monkeypatch)
        assert (dataset.total_episodes, dataset.total_steps) == (2, 1000)
        assert dataset.env_spec.id == env_id
        metadata = dataset.storage.metadata
        assert metadata["behaviours"] == "random (2 episodes)"
        episodes = list(dataset.iterate_episodes())
        returns = [episode.rewards.sum() for episode in episodes]
        assert metadata["return_mean"] == pytest.approx(np.mean(returns), rel=1e-5)
        for number, episode in enumerate(episodes):
            # The episode over again in a new environment, from its number and its actions
            env = gymnasium.make(env_id)
            start = np.random.SeedSequence([0, number, *task.encode()]).generate_state(3)[0]
            observations = [env.reset(seed=int(start))[0]]
            rewards = []
            for action in episode.actions:
                observation, reward, _, truncated, _ = env.step(action)
                observations.append(observation)
                rewards.append(reward)
            np.testing.assert_array_equal(episode.observations, observations)
            np.testing.assert_allclose(episode.rewards, rewards, rtol=1e-6)
            assert truncated
            assert episode.truncations[-1]
            assert not episode.terminations.any()
            assert episode.observations.dtype == episode.actions.dtype == np.float32


def test_killed_and_resumed_is_as_if_nothing_had_happened(tmp_path, monkeypatch):
    arguments = ["--tasks", "cartpole-balance", "--steps", "15000", "--processes", "1", "--behaviour", "random"]
    line = [sys.executable, "-m", "sb3_pwm.data.collect", *arguments, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, start_new_session=True)
    parts = tmp_path / "killed" / ".collecting" / "sb3-pwm" / "cartpole-balance"
    for _ in range(1200):
        if len(list(parts.glob("*.npz"))) >= 2:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = sorted(path.name for path in parts.glob("*.npz"))
    assert 2 <= len(kept) < 8, "the command was not killed in the middle"
    assert not (tmp_path / "killed" / "sb3-pwm" / "cartpole-balance-v0").exists()
    made = {name: (parts / name).stat().st_mtime_ns for name in kept}
    job = Job("cartpole-balance", 15_000, (Behaviour("random"),), 0, parts)
    collect_task(job)
    assert all((parts / name).stat().st_mtime_ns == when for name, when in made.items())  # not collected again

    for out in ("killed", "whole"):
        assert command(*arguments, "--out", tmp_path / out).returncode == 0
    resumed = load(tmp_path / "killed", "sb3-pwm/cartpole-balance-v0", monkeypatch)
    whole = load(tmp_path / "whole", "sb3-pwm/cartpole-balance-v0", monkeypatch)
    assert resumed.total_steps == whole.total_steps == 15_000
    for one, other in zip(resumed.iterate_episodes(), whole.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.actions, other.actions)
    assert not (tmp_path / "killed" / ".collecting").exists()


def test_interrupted_between_two_tasks_goes_on_with_the_second(tmp_path, monkeypatch):
    def interrupted(job, *arguments):
        if job.task == "cup-spin":
            raise KeyboardInterrupt
        return write_dataset(job, *arguments)

    options = dict(tasks=["cup-catch", "cup-spin"], out=tmp_path, namespace="mt30")
    with monkeypatch.context() as patch:
        patch.setattr("sb3_pwm.data.collect.write_dataset", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(steps=500, **options)
    finished = tmp_path / "mt30/cup-catch-v0/data/main_data.hdf5"
    before = finished.stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="cup-catch"):  # not the same command
        collect(steps=1000, **options)
    rows = collect(steps=500, **options)
    assert [(row["task"], row["episodes"], row["steps"]) for row in rows] == [
        ("cup-catch", 1, 500),
        ("cup-spin", 1, 500),
    ]
    assert finished.stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match=r"cup-catch.*cup-spin"):  # finished
        collect(steps=500, **options)


def test_finished_data_is_not_overwritten_unless_told_to(tmp_path, monkeypatch):
    options = dict(tasks=["acrobot-swingup"], out=tmp_path)
    collect(steps=500, **options)
    with pytest.raises(FileExistsError, match=r"already holds sb3-pwm/acrobot-swingup-v0.*--overwrite"):
        collect(steps=1000, **options)
    assert load(tmp_path, "sb3-pwm/acrobot-swingup-v0", monkeypatch).total_steps == 500
    collect(steps=1000, overwrite=True, **options)
    assert load(tmp_path, "sb3-pwm/acrobot-swingup-v0", monkeypatch).total_steps == 1000


def test_unfinished_data_of_other_settings_or_damaged_is_refused(tmp_path):
    job = Job("cup-catch", 1000, (Behaviour("random"),), 0, tmp_path / "cup-catch")
    collect_task(job)
    with pytest.raises(ValueError, match=r"cup-catch was collected with other settings.*--overwrite"):
        collect_task(Job("cup-catch", 1000, (Behaviour("random"),), 1, job.folder))
    (shard,) = job.folder.glob("*.npz")
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"{shard.name} is damaged"):
        collect_task(job)


def test_policy_of_a_zoo_run(tmp_path):
    folder = tmp_path / "pwm" / "Cartpole-balance_1"
    model = PWM("MlpPolicy", gymnasium.make("Cartpole-balance"), seed=0, device="cpu")
    model.save(folder / "Cartpole-balance")
    env = gymnasium.make("Cartpole-balance")
    policy = make_policy(Behaviour.parse(f"policy:{folder}"), "cartpole-balance", env)
    observation, _ = env.reset(seed=3)
    np.testing.assert_array_equal(policy(observation), model.predict(observation, deterministic=True)[0])
    with pytest.raises(ValueError, match=r"was trained on observations \(5,\)"):
        make_policy(Behaviour("policy", str(folder)), "walker-walk", gymnasium.make("Walker-walk"))
    with pytest.raises(FileNotFoundError, match="There is no model"):
        make_policy(Behaviour("policy", str(tmp_path / "pwm" / "Walker-walk_1")), "walker-walk", env)


def test_mixture_of_random_and_scripted_episodes(tmp_path, monkeypatch):
    pytest.importorskip("metaworld", reason="needs Meta-World: pip install 'sb3-pwm[metaworld]'")
    mixture = [Behaviour.parse("random"), Behaviour.parse("expert:0.1=2")]
    (row,) = collect(["mw-reach"], 600, tmp_path, mixture, namespace="mt80")
    assert row["behaviours"] == "expert:0.1 (4 episodes), random (2 episodes)"
    dataset = load(tmp_path, "mt80/mw-reach-v0", monkeypatch)
    successes = [episode.infos["success"].max() for episode in dataset.iterate_episodes()]
    assert sum(successes) == 4
    assert row["success_rate"] == pytest.approx(4 / 6)


def test_behaviours_share_the_episodes_by_weight():
    chosen = list(itertools.islice(behaviour_of_each_episode([1.0, 2.0, 1.0]), 400))
    assert np.bincount(chosen).tolist() == [100, 200, 100]
    for n in range(1, 400):
        assert np.abs(np.bincount(chosen[:n], minlength=3) - n * np.array([0.25, 0.5, 0.25])).max() < 1.01


@pytest.mark.parametrize(
    ("text", "behaviour"),
    [
        ("random", Behaviour("random")),
        ("random=0.5", Behaviour("random", weight=0.5)),
        ("expert:0.3", Behaviour("expert", noise=0.3)),
        ("expert:0.3=2", Behaviour("expert", noise=0.3, weight=2.0)),
        ("policy:logs/pwm/Dog-run_1", Behaviour("policy", "logs/pwm/Dog-run_1")),
        ("policy:C:/logs/Dog-run_1:0.2=3", Behaviour("policy", "C:/logs/Dog-run_1", 0.2, 3.0)),
    ],
)
def test_behaviours_are_read(text, behaviour):
    assert Behaviour.parse(text) == behaviour


@pytest.mark.parametrize("text", ["", "scripted", "policy", "expert:much", "random:0.1", "random=0", "expert:-1"])
def test_no_behaviours_are_refused(text):
    with pytest.raises(ValueError, match="is no behaviour"):
        Behaviour.parse(text)


def test_command_says_what_is_wrong(tmp_path):
    cases = {
        ("--tasks", "walker-wlk"): "nearest: walker-walk",
        ("--tasks", "walker-walk", "--behaviour", "expert"): "no scripted expert",
        ("--tasks", "walker-walk", "--behaviour", "sleep"): "is no behaviour",
    }
    for arguments, message in cases.items():
        process = command(*arguments, "--steps", 10, "--out", tmp_path, "--processes", 1)
        assert process.returncode == 1
        assert message in process.stderr
        assert "Traceback" not in process.stderr
    assert json.loads((tmp_path / ".collecting/sb3-pwm/walker-walk/settings.json").read_text())["seed"] == 0
