"""Exported policies compute the same actions as ``predict``, in onnxruntime and in TorchScript."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from random_env import TINY, RandomEnv, some
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pwm import PWM, WorldModel, WorldModelConfig


def run_onnx(path, observations):
    named = observations if isinstance(observations, dict) else {"observations": observations}
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime to run what was exported")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    assert output.name == ("actions_" if "actions" in named else "actions")
    return session.run(None, named)[0]


def run_torchscript(path, observations):
    arrays = observations.values() if isinstance(observations, dict) else [observations]
    return th.jit.load(str(path))(*map(th.from_numpy, arrays)).numpy()


FORMATS = pytest.mark.parametrize(("name", "run"), [("policy.onnx", run_onnx), ("policy.pt", run_torchscript)])


@FORMATS
def test_same_actions_as_predict(tmp_path, name, run):
    env = gymnasium.make("Pendulum-v1")  # actions in [-2, 2]
    kwargs = dict(learning_starts=10, batch_size=4, device="cpu", seed=0)
    model = PWM("MlpPolicy", env, policy_kwargs=dict(TINY, activation_fn=th.nn.Mish), **kwargs)
    model.policy.export(tmp_path / name)
    for size in (1, 7):  # batches of any size
        observations = np.random.default_rng(size).uniform(-8.0, 8.0, (size, 3)).astype(np.float32)
        expected = model.predict(observations, deterministic=True)[0]
        np.testing.assert_allclose(run(tmp_path / name, observations), expected, atol=1e-5)
    assert model.learn(20).n_updates > 0  # the policy itself can still be trained


@FORMATS
def test_normalized_latents(tmp_path, name, run):
    model = PWM("MlpPolicy", "Pendulum-v1", policy_kwargs=TINY, device="cpu", seed=0)
    observations = np.random.default_rng(0).uniform(-8.0, 8.0, (7, 3)).astype(np.float32)
    before = model.predict(observations, deterministic=True)[0]
    with th.no_grad():
        model.policy.count_latents(model.policy.encode(th.from_numpy(observations)))
    expected = model.predict(observations, deterministic=True)[0]
    assert np.abs(expected - before).max() > 1e-3
    model.policy.export(tmp_path / name)
    np.testing.assert_allclose(run(tmp_path / name, observations), expected, atol=1e-5)


@FORMATS
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float64])
def test_actions_of_every_dtype(tmp_path, name, run, dtype):
    low, high = np.array([0, 7], dtype), np.array([100, 7], dtype)  # the second dimension has equal bounds
    model = PWM("MlpPolicy", RandomEnv(action_space=spaces.Box(low, high, dtype=dtype)), device="cpu", seed=0)
    model.policy.export(tmp_path / name)
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    expected = model.predict(observations, deterministic=True)[0]
    actions = run(tmp_path / name, observations)
    assert actions.dtype == (np.float32 if dtype == np.float64 else dtype)
    np.testing.assert_allclose(actions, expected, rtol=1e-5)


@FORMATS
def test_normalization_is_included(tmp_path, name, run):
    env = VecNormalize(make_vec_env("Pendulum-v1"), clip_obs=1.5)
    model = PWM("MlpPolicy", env, device="cpu", learning_starts=50, seed=0, policy_kwargs=TINY)
    model.learn(60)
    model.policy.export(tmp_path / name, model.get_vec_normalize_env())
    raw = np.random.default_rng(0).uniform(-8.0, 8.0, (20, 3)).astype(np.float32)
    normalized = env.normalize_obs(raw)
    assert (np.abs(normalized) == 1.5).any()
    expected = model.predict(normalized, deterministic=True)[0]
    np.testing.assert_allclose(run(tmp_path / name, raw), expected, atol=1e-5)


IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
ENTRIES = spaces.Dict(
    image=IMAGE,
    number=spaces.Discrete(3),
    numbers=spaces.MultiDiscrete([3, 2]),
    bits=spaces.MultiBinary(3),
    vector=spaces.Box(-1.0, 1.0, (2,), np.float32),
)


@FORMATS
@pytest.mark.parametrize(
    ("policy", "space", "normalized"),
    [
        ("MlpPolicy", spaces.Discrete(4), False),
        ("CnnPolicy", IMAGE, False),
        ("MultiInputPolicy", ENTRIES, True),  # the vector is normalized, the other entries are not
        ("MultiInputPolicy", spaces.Dict(actions=spaces.Box(-1.0, 1.0, (2,), np.float32)), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, spaces.Space) else str(value),
)
def test_observations_of_every_kind(tmp_path, name, run, policy, space, normalized):
    env = make_vec_env(lambda: RandomEnv(space), seed=0)
    if normalized:
        env = VecNormalize(env, norm_obs_keys=["vector"])
    kwargs = dict(learning_starts=10, buffer_size=100, batch_size=4, device="cpu", seed=0, policy_kwargs=TINY)
    model = PWM(policy, env, **kwargs).learn(25)
    model.policy.export(tmp_path / name, model.get_vec_normalize_env())
    raw = some(space, 5)
    expected = model.predict(env.normalize_obs(raw) if normalized else raw, deterministic=True)[0]
    np.testing.assert_allclose(run(tmp_path / name, raw), expected, atol=1e-5)


@FORMATS
def test_task_of_a_multi_task_world_model(tmp_path, name, run):
    th.manual_seed(0)
    sizes = dict(latent_dim=16, encoder_dim=24, mlp_dim=24, task_dim=4)
    world_model = WorldModel(WorldModelConfig(observation_dim=8, action_dim=2, tasks=("cup-catch", "other"), **sizes))
    with th.no_grad():
        world_model.task_embedding.weight.mul_(1e3)  # looking up a row scales it to norm 1
    model = PWM(
        "MlpPolicy", gymnasium.make("Cup-catch"), world_model=world_model, device="cpu",
        policy_kwargs=dict(net_arch=dict(pi=[16], vf=[16])),
    )  # fmt: skip
    model.policy.export(tmp_path / name)
    observations = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    expected = model.predict(observations, deterministic=True)[0]
    np.testing.assert_allclose(run(tmp_path / name, observations), expected, atol=1e-5)


def test_torchscript_needs_torch_alone(tmp_path):
    model = PWM("MlpPolicy", "Pendulum-v1", device="cpu", policy_kwargs=TINY)
    model.policy.export(tmp_path / "policy.pt")
    code = (
        "import sys, torch; sys.modules['sb3_pwm'] = sys.modules['stable_baselines3'] = None; "
        "print(torch.jit.load(sys.argv[1])(torch.zeros(3, 3)).shape)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "policy.pt")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "torch.Size([3, 1])" in output


def test_bad_paths_and_missing_packages(tmp_path, monkeypatch):
    model = PWM("MlpPolicy", "Pendulum-v1", device="cpu", policy_kwargs=TINY)
    with pytest.raises(ValueError, match=r"must end in \.onnx or, for TorchScript, \.pt"):
        model.policy.export(tmp_path / "policy.tflite")
    (tmp_path / "policy.onnx").write_text("before")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'sb3-pwm\[onnx\]'"):
        model.policy.export(tmp_path / "policy.onnx")
    assert (tmp_path / "policy.onnx").read_text() == "before"


def test_normalization_of_other_observations(tmp_path):
    model = PWM("MlpPolicy", "Pendulum-v1", device="cpu", policy_kwargs=TINY)
    with pytest.raises(ValueError, match=r"must be a VecNormalize or None, as model\.get_vec_normalize_env\(\)"):
        model.policy.export(tmp_path / "policy.pt", model.get_env())
    for space in (spaces.Box(-1.0, 1.0, (1,), np.float32), spaces.Dict(observations=spaces.Box(-1.0, 1.0, (2,)))):
        other = VecNormalize(make_vec_env(lambda space=space: RandomEnv(space)))
        with pytest.raises(ValueError, match=r"vec_normalize normalizes observations of the shape .*, the policy's"):
            model.policy.export(tmp_path / "policy.pt", other)
    assert not list(tmp_path.iterdir())
