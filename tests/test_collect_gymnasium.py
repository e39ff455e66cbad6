"""Collection in any registered environment, by models of any SB3 algorithm; then a world model and a policy of it."""

import json
import pickle
import subprocess
import sys
import textwrap
import zipfile

import gymnasium
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch as th
from gymnasium.wrappers import FlattenObservation
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pwm import OfflineDataset, WorldModel, WorldModelConfig
from sb3_pwm.cli import main
from sb3_pwm.collect import Behavior, collect
from sb3_pwm.collect import episodes as episodes_module
from sb3_pwm.collect.models import ALGORITHMS
from sb3_pwm.collect.policies import make_policy
from sb3_pwm.data.environments import Task, find_task
from sb3_pwm.data.readers.minari_tasks import task_names
from sb3_pwm.extract import ExtractionConfig, extract_policy

minari = pytest.importorskip("minari", reason="needs Minari: pip install 'sb3-pwm[minari]'")


def small():
    """Arguments of a small model. SB3 changes the dictionary that it gets."""
    return dict(policy_kwargs=dict(net_arch=[8]), device="cpu", seed=0)


@pytest.fixture(scope="module")
def sac(tmp_path_factory):
    """Files of an SAC that has hardly learned, with its replay buffer full."""
    file = tmp_path_factory.mktemp("models") / "sac.zip"
    SAC("MlpPolicy", "Pendulum-v1", learning_starts=10, buffer_size=50, **small()).learn(60).save(file)
    return file


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A package of a user, which registers environments when it is imported."""
    (tmp_path / "toy_tasks.py").write_text(
        textwrap.dedent(
            """
            import gymnasium
            import numpy as np
            from gymnasium import spaces

            class Toy(gymnasium.Env):
                observation_space = spaces.Dict(
                    [("where", spaces.Box(-9.0, 9.0, (2, 2))), ("color", spaces.Discrete(3))]
                )
                action_space = spaces.Box(np.array([0.0, -1.0], np.float32), np.array([10.0, 1.0], np.float32))

                def __init__(self, bounded=True, ends=True):
                    self.ends = ends
                    if not bounded:
                        self.action_space = spaces.Box(-np.inf, np.inf, (1,))

                def observe(self):
                    return {"color": self.n % 3, "where": np.full((2, 2), self.n, np.float32)}

                def reset(self, *, seed=None, options=None):
                    super().reset(seed=seed)
                    self.n = 0
                    return self.observe(), {}

                def step(self, action):
                    self.n += 1
                    done = self.ends and self.n == 4
                    return self.observe(), float(action[0]), False, done, {}

            gymnasium.register("ToY-v0", entry_point=Toy)
            gymnasium.register("Toy-unbounded-v0", entry_point=Toy, kwargs={"bounded": False})
            gymnasium.register("Toy-endless-v0", entry_point=Toy, kwargs={"ends": False})
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("toy_tasks", None)
    for name in ("ToY-v0", "Toy-unbounded-v0", "Toy-endless-v0"):
        gymnasium.registry.pop(name, None)


def command(*arguments):
    """Run a command of sb3-pwm in a process of its own, as a user does."""
    line = [sys.executable, "-m", "sb3_pwm.cli", *map(str, arguments)]
    process = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_from_a_model_of_sb3_to_a_policy_of_its_data(tmp_path, sac):
    data, world_model = tmp_path / "data", tmp_path / "wm.safetensors"
    behaviors = (f"policy:{sac}:0,0.3=2", "random")
    command("collect", "--tasks", "Pendulum-v1", "--steps", 600, "--out", data, "--behavior", *behaviors)
    (metadata,) = [json.loads(file.read_text()) for file in data.rglob("metadata.json") if file.parent.name == "data"]
    assert metadata["behaviors"] == f"policy:{sac}:0,0.3 (2 episodes), random (1 episodes)"
    sizes = ("--steps", 2, "--batch-size", 4, "--size", "200K", "--horizon", 2)
    command("pretrain", "--dataset", data, *sizes, "--out", world_model)
    settings = ["--updates", "1", "--eval-every", "1", "--eval-episodes", "1", "--seeds", "0", "--threads", "1"]
    settings += ["--params", "{'batch_size': 8}"]
    out = tmp_path / "extracted"
    line = ("--world-model", world_model, "--dataset", data, "--tasks", "Pendulum-v1", "--out", out, *settings)
    assert "| pendulum-v1 | default | 1 |" in command("extract", *line)
    # What was extracted is a model like any other.
    (row,) = collect(
        ["pendulum-v1"],
        200,
        data,
        [Behavior("policy", str(out / "pendulum-v1/default-seed0.zip"))],
        seed=1,
        overwrite=True,
    )
    assert row["episodes"] == 1


def test_actions_of_the_environment_are_stored_and_read_between_minus_one_and_one(tmp_path, monkeypatch):
    collect(["Pendulum-v1"], 400, tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    stored = minari.load_dataset("sb3-pwm/pendulum-v1-v0")
    assert stored.action_space == gymnasium.make("Pendulum-v1").action_space
    assert max(np.abs(episode.actions).max() for episode in stored.iterate_episodes()) > 1.9
    data = OfflineDataset.from_minari(tmp_path).task_data("pendulum-v1")
    assert 0.95 < np.abs(data.actions).max() <= 1.0
    env = gymnasium.make("Pendulum-v1")
    for number, first in enumerate(data.first):
        start = np.random.SeedSequence([0, number, *b"pendulum-v1"]).generate_state(3)[0]
        observations, rewards = [env.reset(seed=int(start))[0]], []
        for action in data.actions[first : first + 200]:
            observation, reward, *_ = env.step(2.0 * action)
            observations.append(observation)
            rewards.append(reward)
        np.testing.assert_allclose(data.rewards[first : first + 200], rewards, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(data.observations[first : first + 201], observations, atol=1e-3)


def test_terminations_are_no_truncations(tmp_path, monkeypatch):
    collect(["Hopper-v5", "Pendulum-v1"], 100, tmp_path)
    dataset = OfflineDataset.from_minari(tmp_path)
    assert dataset.task_data("hopper-v5").terminated.all()
    assert not dataset.task_data("pendulum-v1").terminated.any()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gymnasium.make("Hopper-v5")
    for number, episode in enumerate(minari.load_dataset("sb3-pwm/hopper-v5-v0").iterate_episodes()):
        env.reset(seed=int(np.random.SeedSequence([0, number, *b"hopper-v5"]).generate_state(3)[0]))
        ends = [env.step(action)[2:4] for action in episode.actions]
        np.testing.assert_array_equal(np.stack([episode.terminations, episode.truncations], axis=1), ends)


def test_noises_take_turns(tmp_path, sac, monkeypatch):
    behaviors = [Behavior.parse(f"policy:{sac}:0,0.05,0.2=3"), Behavior("random")]
    collect(["Pendulum-v1"], 1_600, tmp_path, behaviors)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    model = SAC.load(sac, device="cpu")
    spreads = []
    for episode in minari.load_dataset("sb3-pwm/pendulum-v1-v0").iterate_episodes():
        noise = (episode.actions - model.predict(episode.observations[:-1], deterministic=True)[0]) / 2.0
        spreads.append(float(np.std(noise)))
    # Three episodes of the policy, one random episode, and again
    # Three episodes of the policy, a random one in their middle, and again
    wanted = [0.0, 0.05, None, 0.2]
    for spread, noise in zip(spreads, 2 * wanted, strict=True):
        assert spread > 0.4 if noise is None else spread == pytest.approx(noise, rel=0.2, abs=1e-6)


@pytest.mark.parametrize(
    "name", ["SAC", "TD3", "DDPG", "PPO", "A2C", "TQC", "CrossQ", "TRPO", "ARS", "RecurrentPPO", "PWM"]
)
def test_models_of_every_algorithm_act(tmp_path, name):
    key = next(key for key, (_, cls) in ALGORITHMS.items() if cls == name)
    package = __import__(ALGORITHMS[key][0])
    env = gymnasium.make("Pendulum-v1")
    options = dict(device="cpu") if name == "PWM" else small()
    policy_class = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    model = getattr(package, name)(policy_class, env, **options)
    model.save(tmp_path / "agent")
    policy = make_policy(Behavior("policy", str(tmp_path / "agent")), "pendulum-v1", env)
    # TD3 and DDPG have one policy.
    assert type(policy.model).__name__ == ("TD3" if name == "DDPG" else name)
    assert name == "PWM" or getattr(policy.model, "buffer_size", 1) == 1
    for _ in range(2):  # a recurrent policy remembers no other episode
        observation, _ = env.reset(seed=1)
        state, starts = None, True
        for _ in range(4):
            wanted, state = model.predict(observation, state, np.array([starts]), deterministic=True)
            action = policy(observation, starts)
            np.testing.assert_array_equal(action, wanted)
            observation, starts = env.step(action)[0], False


class OwnPolicy(ActorCriticPolicy):
    """A policy class of a user, whose module does not tell the algorithm."""


def test_algorithm_that_the_file_does_not_tell_is_named(tmp_path):
    env = gymnasium.make("Pendulum-v1")
    model = A2C(OwnPolicy, env, **small())
    for file in (tmp_path / "agent.zip", tmp_path / "a2c" / "Pendulum-v1_1" / "Pendulum-v1.zip"):
        model.save(file)
    with pytest.raises(ValueError, match=r"does not say which algorithm it is of: name it, as policy:ALGORITHM:"):
        make_policy(Behavior("policy", str(tmp_path / "agent.zip")), "pendulum-v1", env)
    observation, _ = env.reset(seed=0)
    for source in (f"a2c:{tmp_path}/agent.zip", str(tmp_path / "a2c" / "{env}_1")):  # named, or by rl-zoo3's folder
        policy = make_policy(Behavior("policy", source), "pendulum-v1", env)
        np.testing.assert_array_equal(policy(observation), model.predict(observation, deterministic=True)[0])


def test_observations_are_normalized_as_in_training(tmp_path):
    folder = tmp_path / "ppo" / "Pendulum-v1_1"
    env = VecNormalize(make_vec_env("Pendulum-v1"), norm_reward=False)
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=64, **small()).learn(64)
    model.save(folder / "best_model.zip")
    (folder / "Pendulum-v1").mkdir()
    env.save(folder / "Pendulum-v1" / "vecnormalize.pkl")
    policy = make_policy(Behavior("policy", str(folder / "best_model.zip")), "x", gymnasium.make("Pendulum-v1"))
    observation = np.array([0.1, -0.9, 4.0], np.float32)
    wanted = model.predict(env.normalize_obs(observation), deterministic=True)[0]
    np.testing.assert_allclose(policy(observation), wanted, rtol=1e-6)
    assert not np.allclose(policy(observation), model.predict(observation, deterministic=True)[0])

    other = VecNormalize(make_vec_env("Pendulum-swingup"))
    other.obs_rms.mean = np.zeros(7)
    (folder / "Pendulum-v1" / "vecnormalize.pkl").write_bytes(pickle.dumps(other))
    with pytest.raises(ValueError, match=r"vecnormalize\.pkl is for observations of \(7,\)"):
        make_policy(Behavior("policy", str(folder / "best_model.zip")), "x", gymnasium.make("Pendulum-v1"))


def rewrite(file, target, change):
    """Copy a model with other attributes."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                attributes = json.loads(content)
                change(attributes)
                content = json.dumps(attributes).encode()
            new.writestr(name, content)


def test_models_of_older_versions(tmp_path, sac):
    """Spaces of Gym cannot be read without Gym, and functions of another Python not at all."""

    def age(attributes):
        unreadable = {":type:": "<class 'gym.spaces.box.Box'>", ":serialized:": "gASVAAAA", "dtype": "float32"}
        attributes["observation_space"] = {**unreadable, "shape": [3]}
        attributes["action_space"] = {**unreadable, "shape": [1]}
        for name in ("lr_schedule", "_last_obs", "ep_info_buffer", "replay_buffer_class"):
            attributes[name] = {":type:": "unknown", ":serialized:": "gASVAAAA"}

    rewrite(sac, tmp_path / "old.zip", age)
    env = gymnasium.make("Pendulum-v1")
    policy = make_policy(Behavior("policy", str(tmp_path / "old.zip")), "pendulum-v1", env)
    observation, _ = env.reset(seed=0)
    wanted = SAC.load(sac, device="cpu").predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(policy(observation), wanted)
    with pytest.raises(
        ValueError, match=r"on observations \(3,\) and actions \(1,\); Hopper-v5 has \(11,\) and \(3,\)"
    ):
        make_policy(Behavior("policy", str(tmp_path / "old.zip")), "hopper-v5", gymnasium.make("Hopper-v5"))


def test_models_that_do_not_fit_are_refused(tmp_path, sac, monkeypatch):
    env = gymnasium.make("Pendulum-v1")

    def refused(error, match, file, env=env):
        with pytest.raises(error, match=match):
            make_policy(Behavior("policy", str(file)), "task", env)

    refused(ValueError, r"was trained on observations \(3,\) and actions \(1,\)", sac, gymnasium.make("Hopper-v5"))
    refused(ValueError, r"between \[-2.0\] and \[2.0\]; .* \[-1.0\] and \[1.0\]", sac, gymnasium.make("Pendulum-spin"))
    refused(FileNotFoundError, "There is no model .*nothing.zip", tmp_path / "nothing")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(sac.read_bytes()[:-100])
    refused(ValueError, r"broken.zip is not a saved model of SB3", broken)
    rewrite(sac, broken, lambda attributes: attributes.update(policy_kwargs={"net_arch": [9]}))
    refused(ValueError, r"broken.zip cannot be loaded as a model of SAC: .*size mismatch", broken)
    stable_baselines3.DQN("MlpPolicy", "CartPole-v1", **small()).save(tmp_path / "dqn.zip")
    refused(ValueError, r"actions Discrete\(2\)", tmp_path / "dqn.zip")
    sb3_contrib.TQC("MlpPolicy", env, **small()).save(tmp_path / "tqc.zip")
    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    refused(
        ImportError, "tqc.zip is a model of TQC, which needs sb3_contrib: pip install sb3-contrib", tmp_path / "tqc"
    )


def test_dict_observations_of_a_package_of_the_user(tmp_path, toys, monkeypatch):
    __import__("toy_tasks")
    env = gymnasium.make("ToY-v0")
    SAC("MultiInputPolicy", env, **small()).save(tmp_path / "sac.zip")
    behaviors = [Behavior("random"), Behavior("policy", str(tmp_path / "sac.zip"), 0.1)]
    (row,) = collect(["toy_tasks:toy-v0"], 24, tmp_path / "data", behaviors)
    assert (row["task"], row["episodes"], row["steps"]) == ("toy-v0", 6, 24)
    dataset = OfflineDataset.from_minari(tmp_path / "data")
    assert dataset.tasks == ("toy-v0",)
    flat, data = FlattenObservation(env), dataset.data[0]
    wanted = [flat.reset()[0], *(flat.step(np.array([5.0, 0.0]))[0] for _ in range(4))]
    for first in data.first:
        np.testing.assert_array_equal(data.observations[first : first + 5], wanted)
        # The reward is the first action, from 0 to 10.
        np.testing.assert_allclose(
            data.rewards[first : first + 4], 5.0 * (data.actions[first : first + 4, 0] + 1.0), rtol=1e-5
        )
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "data"))
    recovered = minari.load_dataset("sb3-pwm/toy-v0-v0").recover_environment()
    assert recovered.observation_space.shape == (7,)

    th.manual_seed(0)
    sizes = dict(latent_dim=16, encoder_dim=16, mlp_dim=16, task_dim=4)
    world_model = WorldModel(WorldModelConfig(observation_dim=7, action_dim=2, tasks=("toy-v0",), **sizes))
    config = ExtractionConfig(updates=1, eval_every=1, eval_episodes=1)
    model, result = extract_policy(world_model, dataset, "toy_tasks:ToY-v0", 0, config, {"batch_size": 4}, "cpu")
    assert result["task"] == model.policy.task == "toy-v0"
    assert np.isfinite(result["evaluations"][-1]["return"])
    # This model takes flat observations.
    model.save(tmp_path / "pwm.zip")
    policy = make_policy(Behavior("policy", str(tmp_path / "pwm.zip")), "toy-v0", env)
    np.testing.assert_array_equal(policy(env.reset()[0]), model.predict(flat.reset()[0], deterministic=True)[0])


def test_episodes_without_an_end_are_refused(tmp_path, toys, monkeypatch):
    monkeypatch.setattr(episodes_module, "MAX_EPISODE_STEPS", 50)
    with pytest.raises(
        ValueError, match=r"has not ended after 50 steps: register the environment with max_episode_steps"
    ):
        collect(["toy_tasks:Toy-endless-v0"], 10, tmp_path / "data")


def test_tasks_are_found_by_name_or_by_id():
    assert find_task("Walker-walk") == find_task("sb3_pwm:walker-walk") == Task("walker-walk", "Walker-walk")
    assert find_task("halfcheetah-V5") == Task("halfcheetah-v5", "HalfCheetah-v5")


def test_data_of_others_is_of_the_same_task():
    spec = json.dumps({"id": "Hopper-v5", "kwargs": {}})
    ours = {"dataset_id": "sb3-pwm/hopper-v5-v0", "task": "hopper-v5", "env_spec": spec}
    theirs = {"dataset_id": "mujoco/hopper/expert-v0", "env_spec": spec}
    assert task_names([ours, theirs]) == ["hopper-v5", "hopper-v5"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("Pendulum-v2", "There is no task 'Pendulum-v2'; nearest: Pendulum-v1, "),
        ("CartPole-v1", "CartPole-v1 has actions of Discrete(2), but PWM learns continuous actions"),
        ("Pendulum-pixels", "Pendulum-pixels has images of (2, 40, 40)"),
        ("toy_tasks:Toy-unbounded-v0", "Toy-unbounded-v0 has actions without bounds"),
        ("not_there:Toy-v0", "'not_there' of the task 'not_there:Toy-v0' cannot be imported"),
    ],
)
def test_tasks_that_cannot_be_used_are_refused_first(tmp_path, toys, capsys, task, message):
    collecting = ["collect", "--steps", "10", "--behavior", "policy:nothing"]
    extracting = ["extract", "--world-model", "nothing", "--dataset", "nothing"]
    for line in (collecting, extracting):
        with pytest.raises(SystemExit) as error:
            main([*line, "--tasks", task, "--out", str(tmp_path / "out")])
        assert error.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
