"""Data collection as a user meets it: the command, killed and resumed, and what Minari then reads."""

import itertools
import os
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.save_util import save_to_pkl

from sb3_pwm import PWM
from sb3_pwm.cli import main
from sb3_pwm.collect import collect
from sb3_pwm.collect.behaviors import Behavior
from sb3_pwm.collect.episodes import BURST, noisy_steps, replayed_episodes, run_episode
from sb3_pwm.collect.job import Job, behavior_of_each_episode, collect_task, read_shards
from sb3_pwm.collect.minari_writer import write_dataset
from sb3_pwm.collect.policies import make_policy

minari = pytest.importorskip("minari", reason="needs Minari: pip install 'sb3-pwm[minari]'")


def load(out, dataset_id, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out))
    return minari.load_dataset(dataset_id)


def test_command_collects_what_the_environment_gives(tmp_path, monkeypatch, capsys):
    tasks = ("--tasks", "cup-spin", "Pendulum-swingup")
    main(["collect", *tasks, "--steps", "600", "--out", str(tmp_path), "--processes", "2"])
    output = capsys.readouterr().out
    # Two complete episodes of 500 steps each
    assert [line.split()[:3] for line in output.splitlines()[1:3]] == [
        ["cup-spin", "2", "1,000"],
        ["pendulum-swingup", "2", "1,000"],
    ]
    for task, env_id in (("cup-spin", "Cup-spin"), ("pendulum-swingup", "Pendulum-swingup")):
        dataset = load(tmp_path, f"sb3-pwm/{task}-v0", monkeypatch)
        assert (dataset.total_episodes, dataset.total_steps) == (2, 1000)
        assert dataset.env_spec.id == env_id
        metadata = dataset.storage.metadata
        assert metadata["behaviors"] == "random (2 episodes)"
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


def test_tasks_that_are_in_no_suite(tmp_path, monkeypatch):
    rows = collect(["Muscle-humanoid-stand", "humanoid_cmu-run"], 500, tmp_path)
    assert [row["task"] for row in rows] == ["muscle-humanoid-stand", "humanoid_CMU-run"]
    dataset = load(tmp_path, "sb3-pwm/muscle-humanoid-stand-v0", monkeypatch)
    assert dataset.env_spec.id == "Muscle-humanoid-stand"
    assert next(dataset.iterate_episodes()).actions.shape == (500, 152)


def test_the_muscle_humanoids_expert_is_collected(tmp_path, monkeypatch):
    arguments = ["--tasks", "muscle-humanoid-balance", "--behavior", "expert:0.5", "random", "--steps", "30"]
    line = [sys.executable, "-m", "sb3_pwm.collect", *arguments, "--out", str(tmp_path)]
    subprocess.run(line, check=True, stderr=subprocess.DEVNULL)
    dataset = load(tmp_path, "sb3-pwm/muscle-humanoid-balance-v0", monkeypatch)
    noisy, rand = itertools.islice(dataset.iterate_episodes(), 2)
    assert noisy.observations.shape == (len(noisy.rewards) + 1, 67 + 3 * 152)
    # The expert keeps the body up for longer, although its noise is large.
    assert len(rand.rewards) < len(noisy.rewards) < 500
    assert noisy.terminations[-1]
    assert rand.terminations[-1]
    assert np.abs(noisy.actions).max() == 1.0


def test_killed_and_resumed_is_as_if_nothing_had_happened(tmp_path, monkeypatch):
    arguments = ["--tasks", "cartpole-balance", "--steps", "6000", "--processes", "1"]
    line = [sys.executable, "-m", "sb3_pwm.collect", *arguments, "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, start_new_session=True)
    parts = tmp_path / "killed" / ".collecting" / "sb3-pwm" / "cartpole-balance"
    for _ in range(6000):
        if list(parts.glob("*.npz")):
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = sorted(path.name for path in parts.glob("*.npz"))
    assert 1 <= len(kept) < 3, "the command was not killed in the middle"
    assert not (tmp_path / "killed" / "sb3-pwm" / "cartpole-balance-v0").exists()
    made = {name: (parts / name).stat().st_mtime_ns for name in kept}
    job = Job("cartpole-balance", 6_000, (Behavior("random"),), 0, parts)
    collect_task(job)
    assert all((parts / name).stat().st_mtime_ns == when for name, when in made.items())  # not collected again

    for out in ("killed", "whole"):
        main(["collect", *arguments, "--out", str(tmp_path / out)])
    resumed = load(tmp_path / "killed", "sb3-pwm/cartpole-balance-v0", monkeypatch)
    whole = load(tmp_path / "whole", "sb3-pwm/cartpole-balance-v0", monkeypatch)
    assert resumed.total_steps == whole.total_steps == 6_000
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
        patch.setattr("sb3_pwm.collect.run.write_dataset", interrupted)
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


def test_commands_beside_each_other_leave_each_others_episodes_alone(tmp_path, monkeypatch):
    folder = tmp_path / ".collecting" / "sb3-pwm" / "pendulum-spin"
    collect_task(Job("pendulum-spin", 500, (Behavior("random"),), 0, folder))  # another command's, so far
    before = read_shards(folder)
    collect(["cup-spin"], 500, tmp_path)
    assert len(read_shards(folder)) == 1
    collect(["pendulum-spin"], 1000, tmp_path)
    dataset = load(tmp_path, "sb3-pwm/pendulum-spin-v0", monkeypatch)
    assert dataset.total_episodes == 2
    np.testing.assert_array_equal(dataset[0].actions, before[0].actions)
    assert not (tmp_path / ".collecting").exists()


def test_finished_data_is_not_overwritten_unless_told_to(tmp_path, monkeypatch):
    options = dict(tasks=["acrobot-swingup"], out=tmp_path)
    collect(steps=500, **options)
    with pytest.raises(FileExistsError, match=r"already holds sb3-pwm/acrobot-swingup-v0.*--overwrite"):
        collect(steps=1000, **options)
    assert load(tmp_path, "sb3-pwm/acrobot-swingup-v0", monkeypatch).total_steps == 500
    collect(steps=1000, overwrite=True, **options)
    assert load(tmp_path, "sb3-pwm/acrobot-swingup-v0", monkeypatch).total_steps == 1000


def test_unfinished_data_of_other_settings_or_damaged_is_refused(tmp_path):
    job = Job("cup-catch", 1000, (Behavior("random"),), 0, tmp_path / "cup-catch")
    collect_task(job)
    with pytest.raises(ValueError, match=r"cup-catch was collected with other settings.*--overwrite"):
        collect_task(Job("cup-catch", 1000, (Behavior("random"),), 1, job.folder))
    (shard,) = job.folder.glob("*.npz")
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"{shard.name} is damaged"):
        collect_task(job)


def test_settings_without_an_episode_do_not_bind(tmp_path):
    folder = tmp_path / "cup-catch"
    with pytest.raises(FileNotFoundError, match="There is no model"):
        collect_task(Job("cup-catch", 500, (Behavior("policy", str(tmp_path / "none")),), 0, folder))
    collect_task(Job("cup-catch", 500, (Behavior("random"),), 0, folder))
    assert len(read_shards(folder)) == 1


def test_policy_of_a_zoo_run(tmp_path):
    folder = tmp_path / "pwm" / "Cartpole-balance_1"
    model = PWM("MlpPolicy", gymnasium.make("Cartpole-balance"), seed=0, device="cpu")
    model.save(folder / "Cartpole-balance")
    env = gymnasium.make("Cartpole-balance")
    policy = make_policy(Behavior.parse(f"policy:{folder}"), "cartpole-balance", env)
    observation, _ = env.reset(seed=3)
    np.testing.assert_array_equal(policy(observation), model.predict(observation, deterministic=True)[0])
    with pytest.raises(ValueError, match=r"was trained on observations \(5,\)"):
        make_policy(Behavior("policy", str(folder)), "walker-walk", gymnasium.make("Walker-walk"))
    with pytest.raises(FileNotFoundError, match="There is no model"):
        make_policy(Behavior("policy", str(tmp_path / "pwm" / "Walker-walk_1")), "walker-walk", env)


def test_mixture_of_random_and_scripted_episodes(tmp_path, monkeypatch):
    pytest.importorskip("metaworld", reason="needs Meta-World: pip install 'sb3-pwm[metaworld]'")
    mixture = [Behavior.parse("random"), Behavior.parse("expert:0.1=2")]
    (row,) = collect(["mw-reach"], 600, tmp_path, mixture, namespace="mt80")
    assert row["behaviors"] == "expert:0.1 (4 episodes), random (2 episodes)"
    dataset = load(tmp_path, "mt80/mw-reach-v0", monkeypatch)
    successes = [episode.infos["success"].max() for episode in dataset.iterate_episodes()]
    assert sum(successes) == 4
    assert row["success_rate"] == pytest.approx(4 / 6)


# --- Replay buffers -------------------------------------------------------------------------------------------------


def run_folder(tmp_path, algorithm, env_id):
    folder = tmp_path / algorithm / f"{env_id}_1"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("algorithm", [SAC, PWM])
def test_replay_of_a_run(tmp_path, monkeypatch, algorithm):
    """SB3's Monitor says what returns the learner saw, and the environment says what follows a state."""
    folder = run_folder(tmp_path, algorithm.__name__.lower(), "Cartpole-balance")
    env = Monitor(gymnasium.make("Cartpole-balance"))
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", learning_starts=10_000, buffer_size=5_000)
    model.learn(1_700)
    model.save_replay_buffer(folder / "replay_buffer.pkl")

    behavior = Behavior.parse(f"replay:{folder.parent}/{{env}}_1")
    (row,) = collect(["cartpole-balance"], 5_000, tmp_path / "data", [behavior])
    assert (row["episodes"], row["steps"]) == (3, 1_500)  # all that is whole of the 5,000 steps asked for
    episodes = list(load(tmp_path / "data", "sb3-pwm/cartpole-balance-v0", monkeypatch).iterate_episodes())
    returns = [episode.rewards.sum() for episode in episodes]
    np.testing.assert_allclose(sorted(returns), sorted(env.get_episode_rewards()), rtol=1e-4)
    bare = gymnasium.make("Cartpole-balance")
    for episode in episodes:
        assert episode.truncations.tolist() == [False] * 499 + [True]
        assert not episode.terminations.any()
        # The first state is decided by a seed that the buffer does not keep: rewards follow from the next states.
        bare.reset(seed=0)
        physics = bare.unwrapped.environment.physics
        x, cos, sin, dx, dangle = episode.observations[100]
        with physics.reset_context():
            physics.data.qpos[:] = x, np.arctan2(sin, cos)
            physics.data.qvel[:] = dx, dangle
        observation, reward, *_ = bare.step(episode.actions[100])
        np.testing.assert_allclose(observation, episode.observations[101], atol=1e-4)
        assert reward == pytest.approx(episode.rewards[100], abs=1e-4)


def test_replay_of_several_environments_whose_oldest_steps_are_gone(tmp_path):
    env = make_vec_env("Pendulum-swingup", n_envs=2)
    model = SAC("MlpPolicy", env, seed=0, device="cpu", learning_starts=10_000, buffer_size=2 * 1_250)
    model.learn(2 * 1_700)
    file = tmp_path / "replay_buffer.pkl"
    model.save_replay_buffer(file)
    # Steps 450 to 1,700 are left: of each environment the episodes of steps 500 to 1,000 and 1,000 to 1,500
    episodes = replayed_episodes(file, "pendulum-swingup", env.envs[0])
    returns = [returned for monitor in env.envs for returned in monitor.get_episode_rewards()[1:3]]
    np.testing.assert_allclose([episode.rewards.sum() for episode in episodes], returns, rtol=1e-5, atol=1e-6)
    assert [len(episode.rewards) for episode in episodes] == [500] * 4


def make_buffer(env, rewards, ends, gaps=(), n_steps=12):
    """One environment; every observation is the number of its step. ``ends``: step to terminated."""
    buffer = ReplayBuffer(100, env.observation_space, env.action_space, device="cpu", handle_timeout_termination=True)
    position = 0.0
    for step in range(n_steps):
        terminated = ends.get(step)
        before = np.full((1, *env.observation_space.shape), position, np.float32)
        info = {"TimeLimit.truncated": terminated is False}
        action = np.zeros((1, *env.action_space.shape), np.float32)
        buffer.add(before, before + 1, action, np.array([rewards[step]]), np.array([step in ends]), [info])
        position = 100.0 * (step + 1) if step in ends or step in gaps else position + 1
    return buffer


def test_replay_tells_terminations_truncations_and_broken_off_episodes_apart(tmp_path):
    env = gymnasium.make("Pendulum-swingup")
    file = tmp_path / "replay_buffer.pkl"
    save_to_pkl(file, make_buffer(env, np.arange(12.0), {2: True, 5: False, 9: True}, gaps=(7,)))
    first, second, third = replayed_episodes(file, "pendulum-swingup", env)  # steps 6 and 7, 10 and 11 have no end
    assert first.rewards.tolist() == [0.0, 1.0, 2.0]
    assert first.terminations.tolist() == [False, False, True]
    assert not first.truncations.any()
    assert second.truncations.tolist() == [False, False, True]
    assert not second.terminations.any()
    assert second.observations[:, 0].tolist() == [300.0, 301.0, 302.0, 303.0]
    assert third.rewards.tolist() == [8.0, 9.0]


def test_replay_of_what_is_no_run_of_the_task_is_refused(tmp_path):
    env = gymnasium.make("Pendulum-swingup")
    file = run_folder(tmp_path, "sac", "Pendulum-spin") / "replay_buffer.pkl"
    save_to_pkl(file, make_buffer(env, np.zeros(12), {5: True}))
    with pytest.raises(ValueError, match="was filled by Pendulum-spin, not by Pendulum-swingup"):
        replayed_episodes(file.parent, "pendulum-swingup", env)
    with pytest.raises(FileNotFoundError, match="--save-replay-buffer"):
        replayed_episodes(tmp_path, "pendulum-swingup", env)

    other = tmp_path / "buffer.pkl"
    save_to_pkl(other, make_buffer(env, np.zeros(12), {}))
    with pytest.raises(ValueError, match=r"holds observations \(3,\) and actions \(1,\)"):
        replayed_episodes(other, "cartpole-balance", gymnasium.make("Cartpole-balance"))
    with pytest.raises(ValueError, match="12 steps and no complete episode"):
        replayed_episodes(other, "pendulum-swingup", env)
    save_to_pkl(other, make_buffer(env, [0.0, np.nan, *[0.0] * 10], {5: True}))
    with pytest.raises(ValueError, match=r"rewards of episode 0 of .*buffer\.pkl are NaN or infinite at step 1"):
        replayed_episodes(other, "pendulum-swingup", env)
    save_to_pkl(other, {"not": "a buffer"})
    with pytest.raises(ValueError, match=r"buffer\.pkl holds a dict"):
        replayed_episodes(other, "pendulum-swingup", env)
    other.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"buffer\.pkl cannot be read"):
        replayed_episodes(other, "pendulum-swingup", env)


def test_replay_in_a_mixture_ends_with_its_episodes_and_is_resumed(tmp_path):
    env = gymnasium.make("Pendulum-swingup")
    folder = run_folder(tmp_path, "sac", "Pendulum-swingup")
    buffer = make_buffer(env, np.arange(12.0), {2: True, 5: True, 8: True})
    save_to_pkl(folder / "replay_buffer.pkl", buffer)
    behaviors = (Behavior("replay", str(folder)), Behavior("random"))
    whole = Job("pendulum-swingup", 3_000, behaviors, 0, tmp_path / "whole")
    collect_task(whole)
    episodes = read_shards(whole.folder)
    # In turns, until the buffer's three are used up
    assert [episode.behavior for episode in episodes[:8]] == [0, 1, 0, 1, 0, 1, 1, 1]
    assert sorted(episode.rewards.sum() for episode in episodes[:6:2]) == [3.0, 12.0, 21.0]

    part = Job("pendulum-swingup", 1_000, behaviors, 0, tmp_path / "part")
    collect_task(part)
    collect_task(Job("pendulum-swingup", 3_000, behaviors, 0, tmp_path / "part"))
    resumed = read_shards(part.folder)
    assert len(resumed) == len(episodes)
    for one, other in zip(episodes, resumed, strict=True):
        for part, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, same)


def test_mixture_with_a_replay_says_success_where_it_is_known(tmp_path, monkeypatch):
    pytest.importorskip("metaworld", reason="needs Meta-World: pip install 'sb3-pwm[metaworld]'")
    folder = run_folder(tmp_path, "sac", "Mw-reach")
    model = SAC("MlpPolicy", gymnasium.make("Mw-reach"), seed=0, device="cpu", learning_starts=1_000, buffer_size=500)
    model.learn(250)
    model.save_replay_buffer(folder / "replay_buffer.pkl")
    (row,) = collect(["mw-reach"], 400, tmp_path / "data", [Behavior("replay", str(folder)), Behavior("expert")])
    assert row["success_rate"] == 1.0
    episodes = list(load(tmp_path / "data", "sb3-pwm/mw-reach-v0", monkeypatch).iterate_episodes())
    known = [bool(np.isfinite(episode.infos["success"][1:]).all()) for episode in episodes]
    assert sorted(known) == [False, False, True, True]


def test_behaviors_share_the_episodes_by_weight():
    chosen = list(itertools.islice(behavior_of_each_episode([1.0, 2.0, 1.0]), 400))
    assert np.bincount(chosen).tolist() == [100, 200, 100]
    for n in range(1, 400):
        assert np.abs(np.bincount(chosen[:n], minlength=3) - n * np.array([0.25, 0.5, 0.25])).max() < 1.01


@pytest.mark.parametrize(
    ("text", "behavior"),
    [
        ("random", Behavior("random")),
        ("random=0.5", Behavior("random", weight=0.5)),
        ("expert:0.3", Behavior("expert", noise=0.3)),
        ("expert:0,0.3,1=2", Behavior("expert", noise=(0.0, 0.3, 1.0), weight=2.0)),
        ("policy:agent.zip:0,0.1", Behavior("policy", "agent.zip", (0.0, 0.1))),
        ("policy:tqc:agents/{env}.zip:0.1", Behavior("policy", "tqc:agents/{env}.zip", 0.1)),
        ("expert:0.3,0.5@0.1=2", Behavior("expert", noise=(0.3, 0.5), weight=2.0, noisy_share=0.1)),
        ("policy:agent.zip:0.2@1", Behavior("policy", "agent.zip", 0.2)),
        ("expert:0.3=2", Behavior("expert", noise=0.3, weight=2.0)),
        ("policy:logs/pwm/Dog-run_1", Behavior("policy", "logs/pwm/Dog-run_1")),
        ("replay:logs/sac/{env}_1=2", Behavior("replay", "logs/sac/{env}_1", weight=2.0)),
        ("policy:C:/logs/Dog-run_1:0.2=3", Behavior("policy", "C:/logs/Dog-run_1", 0.2, 3.0)),
    ],
)
def test_behaviors_are_read(text, behavior):
    assert Behavior.parse(text) == behavior


def test_noise_in_bursts():
    noisy = list(itertools.islice(noisy_steps(0.2, np.random.default_rng(0)), 20_000))
    assert np.mean(noisy) == pytest.approx(0.2, abs=0.02)
    lengths = {is_noisy: [] for is_noisy in (False, True)}
    for is_noisy, steps in itertools.groupby(noisy[:19_000]):
        lengths[is_noisy].append(len(list(steps)))
    assert all(length % BURST == 0 for length in lengths[True])  # a pause of no step joins two bursts
    assert lengths[True].count(BURST) > 0.8 * len(lengths[True])
    assert len(set(lengths[False])) > 20
    assert all(itertools.islice(noisy_steps(1.0, np.random.default_rng(0)), 100))


def test_between_bursts_the_policy_acts_as_it_is():
    env = gymnasium.make("Pendulum-v1")
    arguments = env, lambda observation, starts: np.array([0.5], np.float32), 0.3, np.random.SeedSequence(0)
    actions = run_episode(*arguments, 0.25).actions
    assert 0.05 < np.mean(actions != 0.5) < 0.6
    assert np.mean(run_episode(*arguments).actions != 0.5) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        *("", "scripted", "policy", "replay", "replay:run:0.1", "expert:much", "random:0.1", "random=0", "expert:-1"),
        *("replay:run:0,0.1", "expert:0,", "expert:0,-1", "expert:0,much", "random:0,1"),
        *("expert:0.3@", "expert:0.3@0", "expert:0.3@1.5", "expert:0.3@nan", "expert:@0.1", "random:0.3@0.1"),
        *("expert:nan", "expert:inf", "random=nan", "random=inf"),
    ],
)
def test_texts_that_are_no_behavior_are_refused(text):
    with pytest.raises(ValueError, match="is no behavior"):
        Behavior.parse(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "walker-wlk"), "nearest: walker-walk"),
        (("--tasks", "walker-walk", "--behavior", "expert"), "no scripted expert"),
        (("--tasks", "walker-walk", "--behavior", "sleep"), "is no behavior"),
        (("--tasks", "cup-spin", "--steps", "0"), "steps must be an integer of at least 1, got 0"),
        (("--tasks", "cup-spin", "--processes", "-1"), "processes must be an integer of at least 0, got -1"),
        (("--tasks", "cup-spin", "--seed", "-1"), "seed must be an integer of at least 0, got -1"),
        ((), "either --tasks or --suite"),
        (("--suite", "mt30", "--tasks", "walker-walk"), "either --tasks or --suite"),
        (("--tasks", "walker-walk", "--behaviour", "random"), "The option --behaviour is called --behavior now"),
        (("--tasks", "walker-walk", "--stepps", "3"), "--stepps"),
        (("--suite", "mt300"), "mt300"),
    ],
)
def test_command_says_what_is_wrong(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(["collect", "--steps", "10", "--out", str(tmp_path), "--processes", "1", *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err
