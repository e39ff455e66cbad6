"""Saving and loading of models, parameters and replay buffers, bad files, and determinism."""

import inspect
import io
import json
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from random_env import TINY, RandomEnv, some
from scripts import run_script_here
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_pwm import PWM, OfflineDataset, PWMPolicy, SequenceReplayBuffer, latest_checkpoint
from sb3_pwm.common.files import atomic_write

SMALL = dict(policy_kwargs=TINY, learning_starts=15, batch_size=6, buffer_size=200, device="cpu", seed=0)
IMAGES = spaces.Box(0, 255, (2, 36, 36), np.uint8)
KINDS = {
    "MlpPolicy": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "CnnPolicy": IMAGES,
    "MultiInputPolicy": spaces.Dict(image=IMAGES, vector=spaces.Box(-1.0, 1.0, (3,), np.float32)),
}
OBSERVATION = np.array([0.3, -0.2, 1.0], np.float32)


def pendulum(**kwargs):
    return PWM("MlpPolicy", "Pendulum-v1", **{**SMALL, **kwargs})


def act(model):
    return model.predict(OBSERVATION, deterministic=True)[0]


def assert_same_parameters(first, second):
    for name, theirs in first.get_parameters().items():
        ours = second.get_parameters()[name]
        if "optimizer" in name:
            assert theirs["param_groups"] == ours["param_groups"]
            theirs, ours = ({(k, n): v for k, s in d["state"].items() for n, v in s.items()} for d in (theirs, ours))
        assert theirs.keys() == ours.keys()
        for key, value in theirs.items():
            assert th.equal(value, ours[key]), (name, key)
    assert first.ent_coef_optimizer is None or th.equal(first.log_ent_coef, second.log_ent_coef)


# --- whole models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path, "file", "bytes"])
@pytest.mark.parametrize("with_env", [False, True])
def test_to_path_and_to_file(tmp_path, kind, with_env):
    model = pendulum().learn(20)
    env = gym.make("Pendulum-v1") if with_env else None
    if kind in (str, Path):
        model.save(kind(tmp_path / "folder" / "model"))
        model.save_replay_buffer(kind(tmp_path / "folder" / "buffer"))
        assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["buffer.pkl", "model.zip"]
        loaded = PWM.load(kind(tmp_path / "folder" / "model"), env=env)
        loaded.load_replay_buffer(kind(tmp_path / "folder" / "buffer"))
    else:
        with io.BytesIO() if kind == "bytes" else tempfile.TemporaryFile() as file:
            model.save(file)
            file.seek(0)
            loaded = PWM.load(file, env=env)
            assert not file.closed
        with io.BytesIO() if kind == "bytes" else tempfile.TemporaryFile() as file:
            model.save_replay_buffer(file)
            file.seek(0)
            loaded.load_replay_buffer(file)
            assert not file.closed
    assert (loaded.get_env() is not None) == with_env
    np.testing.assert_array_equal(act(model), act(loaded))
    assert loaded.replay_buffer.size() == 20
    assert loaded.num_timesteps == 20
    if with_env:
        assert loaded.learn(10, reset_num_timesteps=False).num_timesteps == 30


CONTINUE = textwrap.dedent(
    """
    import sys
    from pathlib import Path

    import torch as th
    from stable_baselines3.common.logger import configure

    from sb3_pwm import PWM

    th.set_num_threads(1)
    for folder in map(Path, sys.argv[1:]):
        model = PWM.load(folder / "model", device="cpu")
        model.load_replay_buffer(folder / "buffer")
        model.set_logger(configure(None, []))
        model.set_random_seed(3)
        model.train(gradient_steps=3, batch_size=6)
        model.save(folder / "continued")
    """
)


def to_be_continued():
    """Models with all kinds of policies, schedules and entropy coefficients, after some updates."""
    learned = dict(
        ent_coef="auto_0.1", learning_rate=lambda progress: 1e-3 * progress, replay_critic_coef=1.0,
        replay_critic_horizon=5,
    )  # fmt: skip
    fixed = dict(ent_coef=0.01, critic_learning_rate="lin_1e-3", optimize_memory_usage=True, horizon=2)
    for policy, kwargs, n_critics in (
        ("MlpPolicy", learned, 3),
        ("MlpPolicy", fixed, 2),
        ("CnnPolicy", learned, 3),
        ("MultiInputPolicy", fixed, 2),
    ):
        env = make_vec_env(lambda space=KINDS[policy]: RandomEnv(space, terminates=True), 2, seed=0)
        policy_kwargs = dict(TINY, n_critics=n_critics)
        yield PWM(policy, env, **{**SMALL, "policy_kwargs": policy_kwargs}, **kwargs).learn(40)


def test_a_new_process_goes_on_bit_for_bit(tmp_path):
    """Optimizers, schedules, running statistics and entropy coefficient are restored: the next updates are the same."""
    models = {}
    for number, model in enumerate(to_be_continued()):
        models[tmp_path / str(number)] = model
        model.save(tmp_path / str(number) / "model")
        model.save_replay_buffer(tmp_path / str(number) / "buffer")
    command = [sys.executable, "-c", CONTINUE, *map(str, models)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    for folder, model in models.items():
        before = deepcopy(model.policy.state_dict())
        model.set_random_seed(3)
        model.train(gradient_steps=3, batch_size=6)
        assert any(not th.equal(value, model.policy.state_dict()[name]) for name, value in before.items())
        continued = PWM.load(folder / "continued", device="cpu")
        assert_same_parameters(model, continued)
        assert continued.n_updates == model.n_updates
        assert continued.num_timesteps == 40


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU: without one there is no other device to load on")
def test_on_another_device(tmp_path):
    model = pendulum().learn(20)
    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", env=gym.make("Pendulum-v1"), device="cuda")
    assert all(value.device.type == "cuda" for value in loaded.policy.state_dict().values())
    assert loaded.log_ent_coef.device.type == "cuda"
    np.testing.assert_allclose(act(model), act(loaded), atol=1e-4)
    loaded.learn(20).save(tmp_path / "model")
    assert PWM.load(tmp_path / "model", device="cpu").policy.device.type == "cpu"


def test_attributes_left_out_put_in_and_replaced(tmp_path):
    model = pendulum(verbose=2)
    model.save(tmp_path / "model", exclude=["verbose"])
    assert PWM.load(tmp_path / "model").verbose == 0
    model.save(tmp_path / "model", exclude=["verbose"], include=["verbose"])
    loaded = PWM.load(
        tmp_path / "model", custom_objects=dict(learning_rate=2e-5, dummy=1.0), print_system_info=True, horizon=5
    )
    assert loaded.verbose == 2
    assert loaded.learning_rate == 2e-5
    assert loaded.lr_schedule(1.0) == 2e-5
    assert loaded.horizon == 5
    assert not hasattr(loaded, "dummy")


def test_a_file_keeps_no_replay_memory_and_needs_none(tmp_path):
    model = pendulum(buffer_size=100_000).learn(20)
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = json.loads(archive.read("data"))
    assert not {"replay_buffer", "actor", "critic", "critic_target", "world_model"} & set(data)
    # A small buffer can be asked for, as with SB3's algorithms
    loaded = PWM.load(tmp_path / "model", buffer_size=1)
    np.testing.assert_array_equal(act(model), act(loaded))


def test_schedules_are_functions_of_plain_floats(tmp_path):
    model = pendulum(learning_rate=lambda progress: progress * np.sin(1.0))
    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model")
    assert type(loaded.lr_schedule(1.0)) is float
    assert loaded.lr_schedule(0.5) == pytest.approx(0.5 * np.sin(1.0))
    assert loaded.critic_lr_schedule(0.5) == 1e-3


def test_a_compiled_policy_is_saved_as_the_plain_one(tmp_path):
    model = pendulum()
    model.policy = th.compile(model.policy)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(act(pendulum()), act(PWM.load(tmp_path / "model")))


@pytest.mark.filterwarnings("error")
def test_no_file_is_left_open(tmp_path):
    model = pendulum()
    for path in (tmp_path / "model", str(tmp_path / "model")):
        model.save(path)
        PWM.load(path, device="cpu")
        model.save_replay_buffer(path)
        model.load_replay_buffer(path)


# --- parameters ---------------------------------------------------------------------------------------------------


def test_get_and_set_parameters():
    model = pendulum().learn(30)
    original = deepcopy(model.get_parameters())
    optimizers = {f"policy.{name}_optimizer" for name in ("actor", "critic", "world_model")}
    assert set(original) == {"policy", "ent_coef_optimizer", *optimizers}
    with pytest.raises(ValueError, match="Key stranger is an invalid object name"):
        model.set_parameters({**original, "stranger": {}}, exact_match=False)
    with pytest.raises(ValueError, match="do not match"):
        model.set_parameters({name: value for name, value in original.items() if name != "policy"}, exact_match=True)
    *but_last, last = original["policy"]
    partial = OrderedDict((name, th.rand_like(original["policy"][name])) for name in but_last)
    with pytest.raises(RuntimeError, match=f"Missing key.*{last}"):
        model.set_parameters({**original, "policy": partial}, exact_match=True)
    model.set_parameters({"policy": partial}, exact_match=False)
    new = model.get_parameters()["policy"]
    assert all(th.equal(new[name], partial[name]) for name in but_last)
    assert th.equal(new[last], original["policy"][last])
    model.set_parameters(original)
    other = pendulum(seed=1)
    assert not np.array_equal(act(other), act(model))
    other.set_parameters(original)
    np.testing.assert_array_equal(act(other), act(model))


def test_names_for_the_networks():
    model = pendulum()
    assert model.actor is model.policy.actor
    assert model.critic is model.policy.critic
    assert model.critic_target is model.policy.critic_target
    assert model.world_model is model.policy.world_model


def test_coefficient_of_the_entropy_bonus(tmp_path):
    env = gym.make("Pendulum-v1")
    learned = pendulum(ent_coef="auto").learn(30)
    learned.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", env=env)
    before = loaded.log_ent_coef.clone()
    assert th.equal(before, learned.log_ent_coef)
    loaded.learn(30)
    assert not th.equal(before, loaded.log_ent_coef)
    fixed = pendulum(ent_coef=0.02).learn(30)
    fixed.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", env=env).learn(30)
    assert loaded.log_ent_coef is None
    assert loaded.logger.name_to_value["train/ent_coef"] == pytest.approx(0.02)


# --- environments -------------------------------------------------------------------------------------------------


class CountingResets(gym.Wrapper):
    """Counts how often the environment is reset."""

    resets = 0

    def reset(self, **kwargs):
        self.resets += 1
        return super().reset(**kwargs)


def test_set_env(tmp_path):
    model = pendulum().learn(30)
    env = CountingResets(gym.make("Pendulum-v1"))
    model.set_env(env, force_reset=True)
    assert model.learn(30, reset_num_timesteps=False).num_timesteps == 60
    for force_reset, resets in ((False, 1), (True, 2)):
        model.set_env(model.get_env(), force_reset=force_reset)
        model.learn(10, reset_num_timesteps=False)
        assert env.resets == resets
    with pytest.raises(AssertionError, match=r"number of environments.*must use `PWM.load\(path, env\)` instead"):
        model.set_env(make_vec_env("Pendulum-v1", 2))
    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", env=model.get_env(), force_reset=False)
    assert loaded.learn(10, reset_num_timesteps=False).num_timesteps == 90
    assert env.resets == 2


@pytest.mark.parametrize(("n_before", "n_after"), [(1, 3), (4, 1), (2, 3)])
@pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])
def test_another_number_of_environments(tmp_path, n_before, n_after, once):
    env = make_vec_env("Pendulum-v1", n_before, seed=0)
    noise = VectorizedActionNoise(NormalActionNoise(np.zeros(1), np.ones(1)), n_before)
    model = PWM("MlpPolicy", env, optimize_memory_usage=once, action_noise=noise, **SMALL).learn(12 * n_before + 48)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = PWM.load(tmp_path / "model", env=make_vec_env("Pendulum-v1", n_after, seed=0))
    assert loaded.n_envs == n_after
    loaded.load_replay_buffer(tmp_path / "buffer")
    n_stored = loaded.replay_buffer.size()
    assert n_stored == model.replay_buffer.size() * n_before // n_after
    steps, updates = loaded.num_timesteps, loaded.n_updates
    loaded.learn(6 * n_after, reset_num_timesteps=False)
    assert loaded.num_timesteps == steps + 6 * n_after
    assert loaded.n_updates == updates + 6  # updates begin at once, since the buffer has enough steps
    assert loaded.replay_buffer.size() == n_stored + 6


@pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])
def test_sequences_do_not_cross_a_reset(once, tmp_path):
    """A reset between two calls of learn() truncates the episode in the buffer."""
    space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    class Counting(RandomEnv):
        """The observation is the number of observations so far."""

        given = 0.0

        def reset(self, *, seed=None, options=None):
            return self.count(super().reset(seed=seed)[1])

        def count(self, *rest):
            self.given += 1.0
            return np.array([self.given], np.float32), *rest

        def step(self, action):
            return self.count(*super().step(action)[1:])

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The last trajectory in the replay buffer will be truncated")
        model = PWM("MlpPolicy", Counting(space, length=50), optimize_memory_usage=once, **SMALL)
        model.learn(21)
        model.learn(21)  # resets the environment
        model.learn(21, reset_num_timesteps=False)  # continues the episode
        model.set_env(model.get_env())  # forces a reset
        model.learn(21, reset_num_timesteps=False)
    batch = model.replay_buffer.sample_sequences(2000, 3)
    steps = batch.observations[1:] - batch.observations[:-1]
    assert (steps[batch.mask > 0] == 1.0).all()
    cut = batch.observations[0][batch.mask[1] == 0.0].unique().tolist()
    # After 21 steps the first reset; 42 steps, the 22nd observation of which was never the one before a step; an
    # episode's own end is at 50 steps, which none of them has.
    assert cut == [21.0, 64.0]
    assert batch.terminations.sum() == 0.0
    # The steps that are added to a loaded buffer begin another episode, too.
    model.save_replay_buffer(tmp_path / "buffer")
    other = PWM("MlpPolicy", Counting(space, length=50), optimize_memory_usage=once, **SMALL)
    other.load_replay_buffer(tmp_path / "buffer")
    other.learn(5)
    assert other.replay_buffer.size() == 89
    batch = other.replay_buffer.sample_sequences(2000, 3)
    steps = batch.observations[1:] - batch.observations[:-1]
    assert (steps[batch.mask > 0] == 1.0).all()


# --- replay buffers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", KINDS)
@pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])
def test_replay_buffer_comes_back_and_can_be_extended(tmp_path, policy, once):
    model = PWM(policy, RandomEnv(KINDS[policy]), optimize_memory_usage=once, **SMALL).learn(40)
    old = deepcopy(model.replay_buffer)
    model.save_replay_buffer(tmp_path / "buffer")
    model.replay_buffer = None
    model.load_replay_buffer(tmp_path / "buffer")
    new = model.replay_buffer
    assert new.device == model.device
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        th.testing.assert_close(getattr(new, name), getattr(old, name), rtol=0, atol=0)
    batch = some(model.observation_space, 5)
    observations = [{k: v[None, i] for k, v in batch.items()} if isinstance(batch, dict) else batch[None, i]
                    for i in range(5)]  # fmt: skip
    infos = [[{}]] * 5
    new.extend(observations, observations, old.actions[:5], old.rewards[:5], old.dones[:5], infos)
    assert new.size() == 45


def test_the_last_trajectory_is_announced_as_truncated_as_in_sb3():
    for once in (False, True):
        model = PWM("MlpPolicy", RandomEnv(length=1000), optimize_memory_usage=once, **SMALL)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.learn(20)
            model.learn(20, reset_num_timesteps=False)
        if once:
            with pytest.warns(UserWarning, match="The last trajectory in the replay buffer will be truncated"):
                model.learn(20)
        else:
            model.learn(20)


@pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])
def test_data_of_a_replay_buffer(once, tmp_path):
    """A saved replay buffer is data for another model, in both kinds of storage."""
    model = PWM("MlpPolicy", RandomEnv(length=9, terminates=True), optimize_memory_usage=once, **SMALL).learn(60)
    model.save_replay_buffer(tmp_path / "buffer")
    data = OfflineDataset.from_replay_buffer(tmp_path / "buffer.pkl", "random").task_data("random")
    assert data.lengths.tolist() == [9] * 6
    other = PWM("MlpPolicy", RandomEnv(length=9), optimize_memory_usage=once, **SMALL)
    other.learn(5)  # an episode that the data truncates
    other.add_dataset(OfflineDataset([data]))
    buffer = other.replay_buffer
    assert buffer.size() == 5 + 54
    assert buffer.dones[:59, 0].nonzero()[0].tolist() == [4, *range(13, 59, 9)]
    assert buffer.timeouts[4, 0] == 1.0
    rows = np.arange(5, 59)
    after = buffer.next_observations_of(rows, np.zeros_like(rows))
    first = model.replay_buffer
    expected = first.next_observations_of(np.arange(54), np.zeros(54, int))
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_array_equal(buffer.observations[rows], first.observations[:54])


def test_loading_with_data(saved):
    """rl-zoo3 passes dataset and world_model when it resumes a run."""
    data = OfflineDataset.from_replay_buffer(
        pendulum(buffer_size=1000, gradient_steps=0).learn(400).replay_buffer, "Pendulum-v1"
    )
    with pytest.warns(UserWarning, match="has its own world model"):
        model = PWM.load(
            saved / "model", env=gym.make("Pendulum-v1"), dataset=data, world_model="wm.safetensors", offline=True,
            buffer_size=1000,
        )  # fmt: skip
    assert model.replay_buffer.size() == 400
    assert model.learn(5).n_updates == 5 + PWM.load(saved / "model").n_updates


def test_data_of_a_dictionary_with_images_is_refused(tmp_path):
    model = PWM("MultiInputPolicy", RandomEnv(KINDS["MultiInputPolicy"]), **SMALL).learn(30)
    with pytest.raises(ValueError, match=r"the replay buffer has images of \(2, 36, 36\), and data sets hold rows"):
        OfflineDataset.from_replay_buffer(model.replay_buffer, "random")
    data = OfflineDataset.from_replay_buffer(PWM("MlpPolicy", RandomEnv(), **SMALL).learn(30).replay_buffer, "random")
    with pytest.raises(ValueError, match=r"Data sets hold flat observations.*image, vector.*FlattenObservation"):
        model.add_dataset(data)


# --- bad files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = pendulum().learn(20)
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    return folder


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_model(saved, tmp_path, share):
    whole = (saved / "model.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.zip"):
        PWM.load(tmp_path / "cut.zip")


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_damaged_model(saved, tmp_path, place):
    content = bytearray((saved / "model.zip").read_bytes())
    start = int(place * len(content))
    content[start : start + 60] = bytes(60)
    (tmp_path / "damaged.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.zip"):
        PWM.load(tmp_path / "damaged.zip")


def test_models_of_others(tmp_path):
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu").save(tmp_path / "sac")
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "ppo")
    DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu").save(tmp_path / "dqn")
    for name, policy in (("sac", "SACPolicy"), ("ppo", "ActorCriticPolicy"), ("dqn", "DQNPolicy")):
        with pytest.raises(ValueError, match=f"policy={policy} is not one of PWM's.*another algorithm's"):
            PWM.load(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as archive:
        archive.writestr("letter.txt", "Dear reader")
    with pytest.raises(ValueError, match=r"foreign\.zip is cut short, or not a saved model at all"):
        PWM.load(tmp_path / "foreign.zip")
    (tmp_path / "text.zip").write_text("Dear reader")
    with pytest.raises(ValueError, match=r"text\.zip is damaged and cannot be loaded"):
        PWM.load(tmp_path / "text.zip")
    with pytest.raises(FileNotFoundError, match=r"nothing\.zip"):
        PWM.load(tmp_path / "nothing")


def test_spaces_that_do_not_match(saved):
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        PWM.load(saved / "model", env=gym.make("Cup-catch"))
    with pytest.raises(ValueError, match="Action spaces do not match"):
        PWM.load(saved / "model", env=RandomEnv(gym.make("Pendulum-v1").observation_space))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        pendulum().set_env(gym.make("Cup-catch"))


def test_another_entropy_coefficient_for_a_saved_model(tmp_path):
    learned, fixed = pendulum(ent_coef="auto_0.5").learn(20), pendulum(ent_coef=0.1).learn(20)
    learned.save(tmp_path / "learned")
    fixed.save(tmp_path / "fixed")
    for name in ("learned", "fixed"):
        model = PWM.load(tmp_path / name, env=gym.make("Pendulum-v1"), ent_coef=0.02)
        assert model.log_ent_coef is model.ent_coef_optimizer is None
        assert model.learn(20).logger.name_to_value["train/ent_coef"] == pytest.approx(0.02)
        model = PWM.load(tmp_path / name, env=gym.make("Pendulum-v1"), ent_coef="auto_0.3")
        assert model.log_ent_coef.exp().item() == pytest.approx(0.3)
        model.learn(20)
        assert model.log_ent_coef.exp().item() != pytest.approx(0.3)
    with pytest.raises(ValueError, match=r"is fixed \(ent_coef=0\.1\): leave 'ent_coef_optimizer' out"):
        fixed.set_parameters(learned.get_parameters(), exact_match=False)
    with pytest.raises(ValueError, match="'ent_coef_optimizer' out"):
        PWM.load(tmp_path / "learned", custom_objects=dict(ent_coef=0.1))


def test_statistics_for_a_normalization_that_has_seen_nothing(tmp_path):
    """rl-zoo3's checkpoints are models only, so a killed run has no other file with the statistics."""
    env = VecNormalize(make_vec_env("Pendulum-v1", seed=0))
    model = PWM("MlpPolicy", env, **SMALL).learn(30)
    model.save(tmp_path / "model")
    fresh = VecNormalize(make_vec_env("Pendulum-v1"))
    with pytest.warns(UserWarning, match="it was given the statistics of the saved model"):
        loaded = PWM.load(tmp_path / "model", env=fresh)
    np.testing.assert_array_equal(fresh.obs_rms.mean, env.obs_rms.mean)
    assert fresh.ret_rms.var == env.ret_rms.var
    assert fresh.obs_rms.count == env.obs_rms.count
    loaded.learn(20, reset_num_timesteps=False)
    assert fresh.obs_rms.count > env.obs_rms.count  # they are updated further

    own = VecNormalize(make_vec_env("Pendulum-v1", seed=1))
    own.reset()
    for _ in range(3):
        own.step(np.zeros((1, 1)))
    own.training = False
    before = own.obs_rms.mean.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PWM.load(tmp_path / "model", env=own)
        np.testing.assert_array_equal(own.obs_rms.mean, before)
        PWM.load(tmp_path / "model", env=make_vec_env("Pendulum-v1"))
        PWM.load(tmp_path / "model").save(tmp_path / "again")
    fresh = VecNormalize(make_vec_env("Pendulum-v1"))
    with pytest.warns(UserWarning, match="it was given the statistics of the saved model"):
        PWM.load(tmp_path / "again", env=fresh)
    assert fresh.obs_rms.count == env.obs_rms.count


def test_statistics_of_other_entries_stay_away(tmp_path):
    space = spaces.Dict(a=spaces.Box(-1.0, 1.0, (2,), np.float32), b=spaces.Box(-1.0, 1.0, (3,), np.float32))
    env = VecNormalize(make_vec_env(lambda: RandomEnv(space)), norm_obs_keys=["a"])
    PWM("MultiInputPolicy", env, **SMALL).learn(30).save(tmp_path / "model")
    other = VecNormalize(make_vec_env(lambda: RandomEnv(space)), norm_obs_keys=["b"])
    PWM.load(tmp_path / "model", env=other).learn(5)
    assert set(other.obs_rms) == {"b"}
    same = VecNormalize(make_vec_env(lambda: RandomEnv(space)), norm_obs_keys=["a"])
    PWM.load(tmp_path / "model", env=same)
    np.testing.assert_array_equal(same.obs_rms["a"].mean, env.obs_rms["a"].mean)


def test_a_policy_in_an_open_file(saved):
    model, file = PWM.load(saved / "model"), io.BytesIO()
    model.policy.save(file)
    file.seek(0)
    np.testing.assert_array_equal(PWMPolicy.load(file).predict(OBSERVATION, deterministic=True)[0], act(model))


def test_policies_that_are_none(saved, tmp_path):
    model = PWM.load(saved / "model")
    model.policy.save(tmp_path / "policy.pth")
    whole = (tmp_path / "policy.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pth").write_text("no policy")
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=1, device="cpu").policy.save(tmp_path / "sac.pth")
    for path in (saved / "model.zip", *(tmp_path / name for name in ("cut.pth", "text.pth", "sac.pth"))):
        with pytest.raises(
            ValueError, match=rf"{path.name} is damaged, or is no PWMPolicy \(PWM\.load\(\) reads whole"
        ):
            PWMPolicy.load(path)
    with pytest.raises(FileNotFoundError):
        PWMPolicy.load(tmp_path / "none.pth")
    np.testing.assert_array_equal(
        PWMPolicy.load(tmp_path / "policy.pth").predict(OBSERVATION, deterministic=True)[0], act(model)
    )


def test_files_of_an_older_version_are_refused_and_nothing_is_half_loaded(saved):
    old = Path(__file__).parent / "data"
    sentence = "of sb3-pwm 0.1.0, an older version: sb3-pwm .* does not read its files"
    with pytest.raises(ValueError, match=rf"model-0\.1\.0\.zip holds a model {sentence}"):
        PWM.load(old / "model-0.1.0.zip")
    with (old / "model-0.1.0.zip").open("rb") as file, pytest.raises(ValueError, match=rf"holds a model {sentence}"):
        PWM.load(file)
    with pytest.raises(ValueError, match=rf"policy-0\.1\.0\.pth holds a policy {sentence}"):
        PWMPolicy.load(old / "policy-0.1.0.pth")
    model = PWM.load(saved / "model", env=gym.make("Pendulum-v1"))
    buffer, before = model.replay_buffer, {name: value.clone() for name, value in model.policy.state_dict().items()}
    with pytest.raises(ValueError, match=rf"replay_buffer-0\.1\.0\.pkl holds a replay buffer {sentence}"):
        model.load_replay_buffer(old / "replay_buffer-0.1.0.pkl")
    assert model.replay_buffer is buffer
    with pytest.raises(ValueError, match=f"holds a model {sentence}"):
        model.set_parameters(str(old / "model-0.1.0.zip"))
    assert all(th.equal(value, model.policy.state_dict()[name]) for name, value in before.items())
    with pytest.raises(ValueError, match=rf"replay_buffer-0\.1\.0\.pkl holds a replay buffer {sentence}"):
        OfflineDataset.from_replay_buffer(old / "replay_buffer-0.1.0.pkl")


def test_a_file_that_lacks_a_part(saved, tmp_path):
    with zipfile.ZipFile(saved / "model.zip") as whole, zipfile.ZipFile(tmp_path / "less.zip", "w") as less:
        for name in whole.namelist():
            if name != "policy.critic_optimizer.pth":
                less.writestr(name, whole.read(name))
    with pytest.raises(ValueError, match=r"less does not hold the parts of this model: .*policy\.critic_optimizer"):
        PWM.load(tmp_path / "less")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(horizn=3), TypeError, "no argument 'horizn': did you mean 'horizon'"),
        (dict(dataset="no/such/folder"), FileNotFoundError, "no/such/folder"),
        (dict(policy_kwargs=dict(net_arch=[3])), ValueError, r"leave policy_kwargs={'net_arch': \[3\]} out of load"),
        (dict(policy="MlpPolicy"), TypeError, "no argument 'policy': a saved model keeps the class of its policy"),
        (dict(_init_setup_model=False), TypeError, "no argument '_init_setup_model': .*leave it out"),
        (dict(horizon=0), ValueError, "horizon must be an integer of at least 1"),
    ],
)
def test_bad_arguments_of_load(saved, arguments, error, message):
    with pytest.raises(error, match=message):
        PWM.load(saved / "model", **arguments)


class OtherPolicy(PWMPolicy):
    pass


class OtherBuffer(SequenceReplayBuffer):
    pass


def rate_of(optimizer, model):
    """:return: The learning rate, without ``lr_scale``."""
    return optimizer.param_groups[0]["lr"] / model.phase.lr_scale


# Every argument of load with another value than the saved one, and how the model shows it after some learning
REPLACED = dict(
    learning_rate=(7e-4, lambda m: rate_of(m.policy.actor_optimizer, m)),
    critic_learning_rate=(7e-4, lambda m: rate_of(m.policy.critic_optimizer, m)),
    world_model_learning_rate=(7e-4, lambda m: rate_of(m.policy.world_model_optimizer, m)),
    buffer_size=(90, lambda m: len(m.replay_buffer.observations)),
    train_freq=(2, lambda m: m.train_freq.frequency),
    replay_critic_coef=(0.5, lambda m: m.phase.replay_critic_coef),
    replay_critic_horizon=(7, lambda m: m.replay_critic_horizon),
    replay_critic_expectile=(0.6, lambda m: m.phase.replay_critic_expectile),
    imagined_critic_coef=(0.5, lambda m: m.phase.imagined_critic_coef),
    discounted_fraction=(0.25, lambda m: m.phase.discounted_fraction),
    new_fraction=(0.25, lambda m: m.phase.new_fraction),
    lr_scale=(0.5, lambda m: m.phase.lr_scale),
    actor_tau=(0.25, lambda m: m.phase.actor_tau),
    world_model_updates=(2, lambda m: m.phase.n_world_model_updates),
    world_model_loss_kwargs=(dict(reward_coef=0.5), lambda m: m.world_model_loss_kwargs),
    bc_coef=(0.5, lambda m: m.phase.bc_coef),
    bc_dropout=(0.5, lambda m: m.phase.bc_dropout),
    ent_coef=(0.5, lambda m: m._ent_coef().item()),
    action_noise=(NormalActionNoise(np.zeros(1), np.ones(1)), lambda m: m.action_noise),
    replay_buffer_class=(OtherBuffer, lambda m: type(m.replay_buffer)),
    replay_buffer_kwargs=(dict(storage="device"), lambda m: dict(storage=m.replay_buffer.storage)),
    optimize_memory_usage=(True, lambda m: m.replay_buffer.optimize_memory_usage),
    stats_window_size=(3, lambda m: m.ep_info_buffer.maxlen),
    tensorboard_log=("logs", lambda m: Path(m.logger.dir).parent.name),
    gradient_checkpointing=(True, lambda m: m._functions.gradient_checkpointing),
)
# What the updates read from the model's attribute of that name
READ = dict(
    learning_starts=9, batch_size=5, horizon=4, td_lambda=0.5, rho=0.5, gamma=0.5, tau=0.5, gradient_steps=2,
    n_critic_epochs=2, n_critic_minibatches=2, offline=False, bc_temperature=2.0, keep_best=False, target_entropy=-3.0,
    precision="bfloat16", compile=False, overlap_updates=False, verbose=0, seed=3,
)  # fmt: skip
# Arguments that are tested elsewhere: refused, or given to load as such
OTHERS = {"policy", "policy_kwargs", "env", "device", "world_model", "dataset", "task", "_init_setup_model"}
OTHERS |= {"policy_optimizer", "policy_optimizer_kwargs"}  # test_lbfgs.py


def test_every_argument_of_load_has_an_effect(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert set(REPLACED) | set(READ) | OTHERS == set(inspect.signature(PWM).parameters)
    given = {name: value for name, (value, _) in REPLACED.items() if name != "optimize_memory_usage"}
    for arguments in (given, dict(optimize_memory_usage=True, replay_buffer_class=None, replay_buffer_kwargs=None)):
        arguments = {**READ, **arguments, "learning_starts": 9}
        before = PWM.load(saved / "model")
        model = PWM.load(saved / "model", env=gym.make("Pendulum-v1", max_episode_steps=10), device="cpu", **arguments)
        model.learn(40, reset_num_timesteps=False)
        assert model.n_updates > before.n_updates
        for name, value in arguments.items():
            default = dict(replay_buffer_class=SequenceReplayBuffer, replay_buffer_kwargs=dict(storage="host"))
            expected = default[name] if value is None else value
            assert REPLACED[name][1](model) == expected if name in REPLACED else getattr(model, name) == value, name


def test_arguments_of_load_that_are_those_of_the_saved_model(saved):
    stored = PWM.load(saved / "model", policy_kwargs=TINY).policy_kwargs
    assert PWM.load(saved / "model", policy_kwargs=dict(stored)).policy_kwargs == stored
    assert PWM.load(saved / "model", policy_kwargs=None, world_model_loss_kwargs=None).world_model_loss_kwargs == {}
    # The advice
    assert type(PWM.load(saved / "model", custom_objects=dict(policy_class=OtherPolicy)).policy) is OtherPolicy


def test_bad_replay_buffers(saved, tmp_path):
    model = pendulum().learn(20)
    before = model.replay_buffer
    whole = (saved / "buffer.pkl").read_bytes()
    for share in (0.0, 0.4, 0.99):
        (tmp_path / "cut.pkl").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"cut\.pkl is damaged, or is no replay buffer"):
            model.load_replay_buffer(tmp_path / "cut.pkl")
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"other is damaged, or is no replay buffer"):
        model.load_replay_buffer(tmp_path / "other")
    PWM("MlpPolicy", "Cup-catch", **SMALL).learn(5).save_replay_buffer(tmp_path / "cup")
    with pytest.raises(ValueError, match=r"cup was filled with the observation_space .*\(8,\).* this model's is"):
        model.load_replay_buffer(tmp_path / "cup")
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu").save_replay_buffer(tmp_path / "sac")
    with pytest.raises(ValueError, match=r"holds a ReplayBuffer, which yields no sequences.*from_replay_buffer\(\)"):
        model.load_replay_buffer(tmp_path / "sac")
    with pytest.raises(FileNotFoundError):
        model.load_replay_buffer(tmp_path / "nothing")
    assert model.replay_buffer is before
    model.learn(10, reset_num_timesteps=False)


@contextmanager
def largest_file(n_bytes):
    """Limit the size of files: writing more fails as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_loses_nothing(saved, tmp_path):
    model = PWM.load(saved / "model", device="cpu")
    model.load_replay_buffer(saved / "buffer")
    saves = {
        "model.zip": (model.save, 30_000),
        "buffer.pkl": (model.save_replay_buffer, 1_000),
        "policy.pth": (model.policy.save, 1_000),
    }
    for name, (save, _) in saves.items():
        save(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == set(saves)
    for name, (save, n_bytes) in saves.items():
        with pytest.raises(OSError, match=rf"\[Errno 27\] File too large: '{tmp_path / name}'"), largest_file(n_bytes):
            save(tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_stays_what_it_was(saved, tmp_path):
    """Links stay links, existing files keep their permissions, and names may have the maximum length."""
    model = PWM.load(saved / "model")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.zip").symlink_to(tmp_path / "elsewhere" / "target.zip")
    model.save(tmp_path / "link")
    assert (tmp_path / "link.zip").is_symlink()
    model.save(tmp_path / "private")
    (tmp_path / "private.zip").chmod(0o600)
    model.save(tmp_path / "private")
    assert (tmp_path / "private.zip").stat().st_mode & 0o777 == 0o600
    model.save(tmp_path / ("n" * 251))
    for name in ("elsewhere/target", "link", "private", "n" * 251):
        PWM.load(tmp_path / name)


@pytest.fixture
def read_only_folder():
    """A folder, and a context that makes it read-only. In it, root, who may write anywhere, becomes nobody."""

    @contextmanager
    def read_only():
        user = os.geteuid()
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)
            folder.chmod(0o755)

    # Not tmp_path, since other users may not enter its parents
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield folder, read_only


def test_a_folder_that_is_read_only_loses_nothing(saved, read_only_folder):
    folder, read_only = read_only_folder
    model = PWM.load(saved / "model")
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    model.policy.save(folder / "policy.pth")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"model.zip", "buffer.pkl", "policy.pth"}
    with read_only():
        with pytest.raises(PermissionError, match=r"model\.zip"):
            model.save(folder / "model")
        with pytest.raises(PermissionError, match=r"buffer\.pkl"):
            model.save_replay_buffer(folder / "buffer")
        with pytest.raises(PermissionError, match=r"policy\.pth"):
            model.policy.save(folder / "policy.pth")
        PWM.load(folder / "model").load_replay_buffer(folder / "buffer")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_written_to_says_so(saved, tmp_path):
    model = PWM.load(saved / "model")
    (tmp_path / "file").write_text("here")
    with pytest.raises(OSError, match="file"):
        model.save(tmp_path / "file" / "model")
    (tmp_path / "model.zip").mkdir()
    with pytest.raises(IsADirectoryError, match=r"model\.zip"):
        model.save(tmp_path / "model")
    assert not list((tmp_path / "model.zip").iterdir())


def write_for_ever(path, began):
    with atomic_write(path) as file:
        file.write(bytes(1000))
        file.flush()
        began.set()
        time.sleep(600)


def test_what_a_killed_process_has_begun_is_removed(saved, tmp_path):
    model = PWM.load(saved / "model")
    processes = []
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        began = context.Event()
        process = context.Process(target=write_for_ever, args=(tmp_path / "file", began))
        process.start()
        assert began.wait(60)
        processes.append(process)
    processes[0].kill()
    processes[0].join()
    begun = sorted(tmp_path.iterdir())
    assert len(begun) == 2
    model.save(tmp_path / "model")
    assert set(begun) < set(tmp_path.iterdir()), "what is a minute old may be in use"
    for path in begun:
        os.utime(path, (0, 0))
    model.save(tmp_path / "model")
    (left,) = set(begun) & set(tmp_path.iterdir())  # another process is still writing it
    processes[1].kill()
    processes[1].join()
    model.save_replay_buffer(tmp_path / "buffer")
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["buffer.pkl", "model.zip"]


# --- checkpoints --------------------------------------------------------------------------------------------------


def test_latest_checkpoint_is_the_newest_whole_one(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None
    env = VecNormalize(make_vec_env("Pendulum-v1", seed=0))
    callback = CheckpointCallback(20, tmp_path, save_replay_buffer=True, save_vecnormalize=True)
    PWM("MlpPolicy", env, **SMALL).learn(60, callback)
    CheckpointCallback(10, tmp_path, name_prefix="other_rl_model").init_callback(pendulum())
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.steps == 60
    assert newest.model == tmp_path / "rl_model_60_steps.zip"
    model = PWM.load(newest.model, env=VecNormalize.load(newest.vec_normalize, make_vec_env("Pendulum-v1")))
    model.load_replay_buffer(newest.replay_buffer)
    assert model.num_timesteps == 60
    # Statistics that a kill has truncated, then a model without a replay buffer
    content = newest.vec_normalize.read_bytes()
    newest.vec_normalize.write_bytes(content[: len(content) // 2])
    assert latest_checkpoint(tmp_path).steps == 40
    (tmp_path / "rl_model_replay_buffer_40_steps.pkl").unlink()
    assert latest_checkpoint(tmp_path).steps == 20
    (tmp_path / "rl_model_20_steps.zip").write_bytes(b"")
    assert latest_checkpoint(tmp_path) is None
    # A run that saves models only
    pendulum().learn(20, CheckpointCallback(10, tmp_path / "models", name_prefix="m"))
    newest = latest_checkpoint(tmp_path / "models", "m")
    assert (newest.steps, newest.replay_buffer, newest.vec_normalize) == (20, None, None)
    # which the one that has just begun cannot be told from, unless it is said what is to be there
    assert latest_checkpoint(tmp_path / "models", "m", save_replay_buffer=True) is None


# --- determinism --------------------------------------------------------------------------------------------------

DETERMINISM = textwrap.dedent(
    """
    import hashlib, json, sys
    import numpy as np, torch as th
    from stable_baselines3.common.noise import NormalActionNoise
    from sb3_pwm import PWM

    th.set_num_threads(1)
    tiny = dict(world_model=dict(latent_dim=16, encoder_dim=16, mlp_dim=16), net_arch=[8])
    digests = {}
    for policy, env in json.loads(sys.argv[1]).items():
        noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
        model = PWM(policy, env, seed=5, learning_starts=30, batch_size=8, train_freq=2, action_noise=noise,
                    buffer_size=500, device="cpu", policy_kwargs=tiny).learn(70)
        digest = hashlib.sha256()
        for value in model.policy.state_dict().values():
            digest.update(value.numpy().tobytes())
        env = model.get_env()
        observation = env.reset()
        for _ in range(40):
            action, _ = model.predict(observation)
            observation, reward, *_ = env.step(action)
            digest.update(action.tobytes() + reward.tobytes())
        digests[policy] = digest.hexdigest()
    print(json.dumps(digests))
    """
)


def test_same_seed_same_parameters_actions_and_rewards_in_every_process(tmp_path):
    """In this process after other tests, and in a new process with another hash seed."""
    envs = dict(MlpPolicy="Pendulum-v1", CnnPolicy="Pendulum-pixels", MultiInputPolicy="Pendulum-dict")
    script = tmp_path / "determinism.py"
    script.write_text(DETERMINISM)
    here = json.loads(run_script_here(script, json.dumps(envs), folder=tmp_path).splitlines()[-1])
    variables = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), json.dumps(envs)]
    output = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert output.returncode == 0, output.stderr
    assert json.loads(output.stdout.splitlines()[-1]) == here
    assert len(set(here.values())) == 3


@pytest.mark.parametrize(("n_envs", "vec_env_cls"), [(1, DummyVecEnv), (3, DummyVecEnv), (3, SubprocVecEnv)])
def test_same_seed_same_run_in_one_process(n_envs, vec_env_cls):
    runs = []
    env = make_vec_env("Pendulum-v1", n_envs, vec_env_cls=vec_env_cls)
    for seed in (0, 0, 1):
        model = PWM("MlpPolicy", env, **{**SMALL, "seed": seed}).learn(45)
        buffer = model.replay_buffer
        runs.append((model.policy.state_dict(), buffer.rewards[: 45 // n_envs], buffer.actions[: 45 // n_envs]))
    env.close()
    th.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    assert not np.array_equal(runs[0][2], runs[2][2])


def test_environments_of_every_kind_can_be_given():
    for env in ("Pendulum-v1", gym.make("Pendulum-v1"), DummyVecEnv([lambda: gym.make("Pendulum-v1")])):
        assert PWM("MlpPolicy", env, **SMALL).learn(20).num_timesteps == 20
