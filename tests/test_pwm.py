"""PWM as a user of SB3 meets it: learn, predict, save, load, errors at the door, and a task with a known optimum."""

import copy
import io
import os
import re
import subprocess
import sys
import warnings
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from random_env import RandomEnv
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_pwm import PWM, SequenceReplayBuffer, WorldModel, WorldModelConfig
from sb3_pwm.common.precision import resolve_precision
from sb3_pwm.pwm import optimizers
from sb3_pwm.pwm.update_functions import UpdateFunctions

SMALL: dict[str, Any] = dict(
    world_model=dict(latent_dim=16, mlp_dim=16, encoder_dim=16),
    policy_kwargs=dict(net_arch=dict(pi=[16], vf=[16]), activation_fn=nn.SiLU),
    learning_starts=20,
    batch_size=8,
    device="cpu",
)


class Drift(gym.Env):
    """
    ``x' = x + 0.3 a``, reward ``-(x^2 + 0.1 a^2)``: a linear-quadratic problem whose optimum is known.

    :param bad: Quantity to poison, and :param at: the step from which on.
    :param terminates: Whether leaving [-1.5, 1.5] ends the episode for good.
    """

    A, B, Q, R, LENGTH = 1.0, 0.3, 1.0, 0.1, 30

    def __init__(self, bad: str | None = None, at: int = 30, terminates: bool = False):
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.bad, self.at, self.terminates, self.total = bad, at, terminates, 0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1), 0
        if self.bad == "first observation":
            self.x = float("nan")
        return np.array([self.x], np.float32), {}

    def step(self, action):
        a = float(action[0])
        reward = -(self.Q * self.x**2 + self.R * a**2)
        self.x, self.t, self.total = self.A * self.x + self.B * a, self.t + 1, self.total + 1
        observation = np.array([self.x], np.float32)
        if self.total >= self.at:
            reward = float("nan") if self.bad == "reward" else reward
            observation = observation * np.inf if self.bad == "observation" else observation
        return observation, reward, self.terminates and abs(self.x) > 1.5, self.t == self.LENGTH, {}

    @classmethod
    def optimal_gain(cls, gamma: float) -> float:
        """Fixed point of the discounted Riccati equation; the optimal action is ``-gain * x``."""
        p = cls.Q
        for _ in range(1000):
            p = cls.Q + gamma * cls.A**2 * p - (gamma * cls.A * cls.B * p) ** 2 / (cls.R + gamma * cls.B**2 * p)
        return gamma * cls.A * cls.B * p / (cls.R + gamma * cls.B**2 * p)


def parameters_of(model: PWM) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same_parameters(expected: dict[str, th.Tensor], actual: dict[str, th.Tensor]) -> None:
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert th.equal(value, actual[name]), name


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("env", [Drift, lambda: Drift(terminates=True)])
def test_learn(n_envs, env):
    model = PWM("MlpPolicy", make_vec_env(env, n_envs), seed=0, **SMALL)
    before = parameters_of(model)
    model.learn(120)
    assert model.num_timesteps == 120
    assert model.n_updates >= (120 - 20) // n_envs - 1
    after = parameters_of(model)
    for part in ("world_model.encoder", "world_model.dynamics", "world_model.reward_network", "actor", "critic"):
        assert any(not th.equal(before[name], after[name]) for name in before if name.startswith(part)), part
    assert all(th.isfinite(value).all() for value in after.values())
    assert model.replay_buffer.size() == 120 // n_envs


@pytest.mark.parametrize(
    "observation_space",
    [
        spaces.Discrete(5),
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiBinary(6),
        spaces.Box(-1, 1, (2, 3), np.float64),
        spaces.Box(0, 255, (36, 36, 1), np.uint8),
    ],
    ids=lambda space: type(space).__name__ + str(space.shape),
)
def test_observation_and_action_spaces(observation_space, tmp_path):
    class Random(Drift):
        def __init__(self):
            super().__init__()
            self.observation_space = observation_space
            self.action_space = spaces.Box(-3.0, 1.0, (2, 2), np.float64)
            self.observation_space.seed(0)

        def reset(self, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            assert self.action_space.contains(action)
            self.t += 1
            return self.observation_space.sample(), 1.0, False, self.t == self.LENGTH, {}

    model = PWM("MlpPolicy", Random(), seed=0, **SMALL).learn(40)
    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", device="cpu")
    observation = observation_space.sample()
    action, _ = model.predict(observation, deterministic=True)
    assert action.shape == (2, 2)
    np.testing.assert_array_equal(action, loaded.predict(observation, deterministic=True)[0])


def test_a_single_sequence_a_batch_and_a_horizon_of_one():
    """The smallest sizes that are accepted: no statistic of a single number may become NaN."""
    model = PWM("MlpPolicy", Drift(), seed=0, **{**SMALL, "batch_size": 1, "horizon": 1})
    assert model.learn(40).n_updates > 0


def test_logs_the_documented_metrics():
    model = PWM("MlpPolicy", Drift(terminates=True), seed=0, **SMALL)
    model.learn(80, log_interval=10_000)
    logged = set(model.logger.name_to_value)
    for name in [
        "actor_loss",
        "critic_loss",
        "world_model_loss",
        "dynamics_loss",
        "reward_loss",
        "termination_loss",
        "imagined_return",
        "value",
        "actor_grad_norm",
        "n_updates",
        "learning_rate",
    ]:
        assert f"train/{name}" in logged
    model.dump_logs()


def test_updates_per_second_is_logged(tmp_path):
    model = PWM("MlpPolicy", Drift(), seed=0, tensorboard_log=str(tmp_path), **SMALL)
    model.learn(100, log_interval=1)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(tmp_path.iterdir())))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"time/updates_per_second", "rollout/ep_rew_mean", "time/fps", "train/actor_loss"} <= set(tags)
    assert events.Scalars("time/updates_per_second")[-1].value > 0


def test_termination_head_is_used_from_the_first_termination_on():
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL)
    before = parameters_of(model)
    model.learn(60)
    assert not model.terminations_seen  # truncations only
    after = parameters_of(model)
    assert all(th.equal(before[n], after[n]) for n in before if n.startswith("world_model.termination_network"))
    model = PWM("MlpPolicy", Drift(terminates=True), seed=0, **SMALL)
    before = parameters_of(model)
    model.learn(100)
    assert model.terminations_seen
    after = parameters_of(model)
    assert any(not th.equal(before[n], after[n]) for n in before if n.startswith("world_model.termination_network"))


def test_frozen_world_model():
    model = PWM("MlpPolicy", Drift(), seed=0, world_model_updates=0, **SMALL)
    before = parameters_of(model)
    model.learn(60)
    after = parameters_of(model)
    assert all(th.equal(before[n], after[n]) for n in before if n.startswith("world_model"))
    assert any(not th.equal(before[n], after[n]) for n in before if n.startswith("actor"))


class Round(gym.Env):
    """A reward of one after every step, the episode's progress as observation; every third step is its last."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, terminates: bool):
        self.terminates = terminates

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        ended = self.t == 3
        return np.full(1, self.t / 3, np.float32), 1.0, ended and self.terminates, ended and not self.terminates, {}


@pytest.mark.parametrize(
    ("terminates", "expected"),
    # gamma 0.5. Terminated: 1, 1.5, 1.75 from the back. Truncated: the last state, never acted from, is taken for one
    # of the others, so that all values lie between 1.75 and the endless sum of 2.
    [(True, [(1.75, 1.75), (1.5, 1.5), (1.0, 1.0)]), (False, [(1.7, 2.05)] * 3)],
)
def test_critics_learn_from_replayed_episodes(terminates, expected):
    arguments = {**SMALL, "policy_kwargs": {**SMALL["policy_kwargs"], "net_arch": dict(pi=[16], vf=[64])}}
    # The world model stays untrained: it imagines no reward and no end. Whatever is right comes from the replay buffer.
    model = PWM(
        "MlpPolicy",
        Round(terminates),
        seed=0,
        gamma=0.5,
        tau=0.2,
        world_model_updates=0,
        critic_learning_rate=5e-3,
        replay_critic_coef=1000.0,
        replay_critic_horizon=8,
        **arguments,
    ).learn(1_000)
    observations = th.tensor([[0.0], [1 / 3], [2 / 3]])
    with th.no_grad():
        values = model.policy.critic(model.policy.encode(observations)).mean(0)
    for value, (low, high) in zip(values.tolist(), expected, strict=True):
        assert low - 0.25 < value < high + 0.25, (values, expected)


def test_actions_respect_the_bounds():
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL).learn(60)
    observations = np.random.default_rng(0).normal(size=(500, 1)).astype(np.float32)
    actions, _ = model.predict(observations)
    assert actions.shape == (500, 1)
    assert np.abs(actions).max() <= 2.0
    again, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(again, model.predict(observations, deterministic=True)[0])


@pytest.mark.parametrize("ent_coef", ["auto_0.1", 0.02])
def test_save_load_continue(tmp_path, ent_coef):
    model = PWM("MlpPolicy", Drift(terminates=True), seed=0, ent_coef=ent_coef, **SMALL).learn(80)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = PWM.load(tmp_path / "model", env=Drift(terminates=True), device="cpu")
    assert_same_parameters(parameters_of(model), parameters_of(loaded))
    assert loaded.terminations_seen == model.terminations_seen
    # The same next update, given the same batch
    for candidate in (model, loaded):
        candidate.load_replay_buffer(tmp_path / "buffer")
        candidate.set_logger(model.logger)
        candidate.set_random_seed(3)
        candidate.train(gradient_steps=3, batch_size=8)
    assert_same_parameters(parameters_of(model), parameters_of(loaded))
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.num_timesteps == 120


def test_no_updates_change_nothing():
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL).learn(30)
    before = parameters_of(model)
    model.train(gradient_steps=0, batch_size=8)
    assert_same_parameters(before, parameters_of(model))


def test_learning_without_an_environment_says_what_is_missing(tmp_path):
    PWM("MlpPolicy", Drift(), seed=0, **SMALL).save(tmp_path / "model")
    with pytest.raises(AssertionError, match="You must set the environment"):
        PWM.load(tmp_path / "model", device="cpu").learn(10)


def test_load_in_a_new_process_predicts_the_same(tmp_path):
    model = PWM("MlpPolicy", "Pendulum-v1", seed=0, **SMALL).learn(60)
    model.save(tmp_path / "model.zip")
    expected, _ = model.predict(np.array([0.3, -0.2, 1.0], np.float32), deterministic=True)
    code = (
        "import sys, numpy as np; from sb3_pwm import PWM; model = PWM.load(sys.argv[1], device='cpu');"
        "assert not model.replay_buffer.allocated;"
        "print(repr(float(model.predict(np.array([0.3, -0.2, 1.0], np.float32), deterministic=True)[0][0])))"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.zip")], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert float(out.stdout.splitlines()[-1]) == pytest.approx(float(expected[0]), abs=1e-6)


def test_policy_alone_saves_and_loads(tmp_path):
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL).learn(40)
    model.policy.save(str(tmp_path / "policy"))
    policy = type(model.policy).load(str(tmp_path / "policy"), device="cpu")
    observation = np.array([0.4], np.float32)
    np.testing.assert_array_equal(
        policy.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )


def test_loaded_without_replay_buffer_collects_before_it_updates(tmp_path):
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL).learn(60)
    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", env=Drift(), device="cpu")
    updates = loaded.n_updates
    loaded.learn(19, reset_num_timesteps=False)
    assert loaded.n_updates == updates
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.n_updates > updates


def test_same_seed_same_result():
    results = []
    for _ in range(2):
        model = PWM("MlpPolicy", Drift(), seed=5, **SMALL).learn(80)
        results.append(parameters_of(model))
    assert_same_parameters(*results)


def test_vec_normalize_and_eval_callback(tmp_path):
    env = VecNormalize(DummyVecEnv([Drift]))
    callback = EvalCallback(
        VecNormalize(DummyVecEnv([Drift]), training=False), eval_freq=40, log_path=str(tmp_path), verbose=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EvalCallback warns that the two environments are wrapped by different classes
        PWM("MlpPolicy", env, seed=0, **SMALL).learn(90, callback=callback, progress_bar=False)
    evaluations = np.load(tmp_path / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == [40, 80]
    assert np.isfinite(evaluations["results"]).all()


def test_learning_rate_schedules():
    model = PWM(
        "MlpPolicy",
        Drift(),
        seed=0,
        learning_rate=lambda progress: 1e-3 * progress,
        critic_learning_rate="lin_2e-3",
        world_model_learning_rate=4e-4,
        **SMALL,
    )
    model.learn(100)

    def rate(optimizer):
        return optimizer.param_groups[0]["lr"]

    assert rate(model.policy.actor_optimizer) == pytest.approx(0.0, abs=1e-9)
    assert rate(model.policy.critic_optimizer) == pytest.approx(0.0, abs=1e-9)
    assert rate(model.policy.world_model_optimizer) == pytest.approx(4e-4)


def test_every_learning_rate_takes_a_linear_schedule(tmp_path):
    rates = dict(learning_rate="lin_5e-4", critic_learning_rate="lin_1e-3", world_model_learning_rate="2e-3")
    model = PWM("MlpPolicy", Drift(), seed=0, **rates, **SMALL)
    assert (model.lr_schedule(1.0), model.lr_schedule(0.5), model.lr_schedule(0.0)) == (5e-4, 2.5e-4, 0.0)
    assert model.learn(50).policy.actor_optimizer.param_groups[0]["lr"] < 1e-4
    assert model.policy.world_model_optimizer.param_groups[0]["lr"] == pytest.approx(2e-3)
    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", env=Drift(), learning_rate="lin_3e-4", device="cpu")
    assert loaded.lr_schedule(0.5) == pytest.approx(1.5e-4)
    with pytest.raises(ValueError, match=r"learning_rate='exp_3' is no learning rate"):
        PWM("MlpPolicy", Drift(), learning_rate="exp_3")


def test_the_callers_policy_kwargs_are_left_alone():
    """A second model made with the same dictionary gets what the dictionary says, not the first one's world model."""
    kwargs = dict(net_arch=dict(pi=[16], vf=[16]))
    original = copy.deepcopy(kwargs)
    pretrained = WorldModel(
        WorldModelConfig(
            observation_dim=1, action_dim=1, latent_dim=24, encoder_dim=8, mlp_dim=8, tasks=("Drift", "else")
        )
    )
    first = PWM("MlpPolicy", Drift(), world_model=pretrained, task="else", policy_kwargs=kwargs, device="cpu")
    assert first.world_model.config.latent_dim == 24
    assert kwargs == original
    second = PWM("MlpPolicy", Drift(), policy_kwargs=kwargs, device="cpu")
    assert second.world_model.config.latent_dim == 64
    assert second.policy.task is None


def test_every_form_of_a_world_model(tmp_path):
    config = WorldModelConfig(
        observation_dim=1, action_dim=1, latent_dim=16, encoder_dim=8, mlp_dim=8, termination=True
    )
    pretrained = WorldModel(config)
    pretrained.save(tmp_path / "wm.safetensors")

    def make(world_model):
        return PWM("MlpPolicy", Drift(), world_model=world_model, seed=0, device="cpu")

    assert make(None).world_model.config == make("200K").world_model.config == make({}).world_model.config
    assert make("1M").world_model.config.mlp_dim == 384
    # Where rl-zoo3's configuration names one in policy_kwargs, the argument counts.
    kwargs = dict(policy_kwargs=dict(world_model="1M"), seed=0, device="cpu")
    assert PWM("MlpPolicy", Drift(), **kwargs).world_model.config.mlp_dim == 384
    with pytest.warns(UserWarning, match="world_model takes the place of the one in policy_kwargs"):
        assert PWM("MlpPolicy", Drift(), world_model=pretrained, **kwargs).world_model.config == config
    fields = make(dict(size="1M", latent_dim=32)).world_model.config
    assert (fields.latent_dim, fields.mlp_dim, fields.activation, fields.termination) == (32, 384, "silu", True)
    assert make(config).world_model.config == config
    assert not make(config).pretrained
    for given in (pretrained, tmp_path / "wm.safetensors", str(tmp_path / "wm.safetensors")):
        model = make(given)
        assert model.pretrained
        for name, value in pretrained.state_dict().items():
            assert th.equal(value, model.world_model.state_dict()[name]), name


def test_loss_coefficients_reach_the_world_model_loss():
    """Without the reward's coefficient the reward network stays as it was; without the dynamics' the dynamics does."""
    for coefficient, part in (("reward_coef", "reward_network"), ("dynamics_coef", "dynamics")):
        zero = {"dynamics_coef": 0.0, "reward_coef": 0.0, "termination_coef": 0.0}
        for kept in (True, False):
            kwargs = {**zero, coefficient: 1.0 if kept else 0.0}
            model = PWM("MlpPolicy", Drift(), seed=0, horizon=1, world_model_loss_kwargs=kwargs, **SMALL)
            before = parameters_of(model)
            model.learn(30)
            name = f"world_model.{part}.0.weight"
            output = next(n for n in before if n.startswith(f"world_model.{part}.2"))
            moved = not (
                th.equal(before[name], parameters_of(model)[name])
                and th.equal(before[output], parameters_of(model)[output])
            )
            assert moved == kept, (coefficient, kept)


def test_a_number_for_bc_coef_counts_online_too():
    """``"auto"`` asks for no behavior term online; somebody who sets a number there gets it."""
    model = PWM("MlpPolicy", Drift(), seed=0, bc_coef=0.5, **SMALL).learn(60)
    assert "train/bc_loss" in model.logger.name_to_value
    assert (model.phase.name, model.phase.bc_coef) == ("online", 0.5)
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL).learn(60)
    assert "train/bc_loss" not in model.logger.name_to_value
    assert model.phase.bc_coef == 0.0


def test_train_freq_in_episodes_and_gradient_steps_minus_one():
    model = PWM("MlpPolicy", Drift(), seed=0, train_freq=(1, "episode"), gradient_steps=-1, **SMALL)
    model.learn(90)
    assert model.n_updates == 90  # three episodes of thirty steps, all of them after learning_starts


@pytest.mark.parametrize("optimizer_class", [th.optim.AdamW, th.optim.SGD])
def test_other_optimizers(optimizer_class):
    policy_kwargs = dict(
        SMALL["policy_kwargs"], optimizer_class=optimizer_class, optimizer_kwargs=dict(weight_decay=1e-4)
    )
    model = PWM("MlpPolicy", Drift(), seed=0, **{**SMALL, "policy_kwargs": policy_kwargs}).learn(40)
    for name in ("actor_optimizer", "critic_optimizer", "world_model_optimizer"):
        optimizer = getattr(model.policy, name)
        assert type(optimizer) is optimizer_class
        assert optimizer.param_groups[0]["weight_decay"] == 1e-4


@pytest.mark.parametrize("horizon", [3, 8])  # one unrolled graph, and parts of it
def test_compiled_and_plain_updates_agree(horizon):
    models = []
    for compiled in (False, True):
        model = PWM("MlpPolicy", Drift(), seed=0, compile=compiled, horizon=horizon, **SMALL)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="compile has no effect")
            models.append(model.learn(40))
    plain, compiled_parameters = parameters_of(models[0]), parameters_of(models[1])
    for name, value in plain.items():
        th.testing.assert_close(compiled_parameters[name], value, atol=2e-3, rtol=2e-2, msg=name)


@pytest.mark.parametrize("fails", ["at once", "when called"])
def test_failing_compiler_warns_once_and_learns_the_same(monkeypatch, fails):
    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler")

    plain = PWM("MlpPolicy", Drift(), seed=0, compile=False, **SMALL).learn(40)
    monkeypatch.setattr(th, "compile", broken if fails == "at once" else lambda *args, **kwargs: broken)
    model = PWM("MlpPolicy", Drift(), seed=0, compile=True, **SMALL)
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler") as caught:
        model.learn(40)
    assert sum("compile" in str(warning.message) for warning in caught) == 1
    assert_same_parameters(parameters_of(plain), parameters_of(model))


@pytest.mark.parametrize(
    ("arguments", "steps", "expected"),
    [
        (dict(horizon=3), 39_000, False),
        (dict(horizon=3), 41_000, True),
        (dict(horizon=3, train_freq=2), 41_000, False),
        (dict(horizon=3, train_freq=2, gradient_steps=-1), 41_000, True),
        (dict(horizon=16), 4_000, False),
        (dict(horizon=16), 6_000, True),
        (dict(horizon=16, compile=False), 6_000, False),
        (dict(horizon=3, compile=True), 100, True),
        (dict(horizon=3, train_freq=(1, "episode"), gradient_steps=2), 1_000_000, False),
    ],
)
def test_automatic_compilation_goes_by_the_planned_updates(monkeypatch, arguments, steps, expected):
    class Stop(BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 60

    compiled: list[int] = []
    monkeypatch.setattr(UpdateFunctions, "compile", lambda self, horizon, device: compiled.append(horizon))
    model = PWM("MlpPolicy", Drift(), **{**SMALL, **arguments}).learn(steps, callback=Stop())
    assert model.n_updates > 0
    assert bool(compiled) == expected


def test_bfloat16_learns_about_the_same():
    """Rounding to 8 bits moves single updates; losses and parameters stay in single precision, and close."""
    models = [PWM("MlpPolicy", Drift(), seed=0, precision=p, **SMALL).learn(60) for p in ("float32", "bfloat16")]
    single, half = (parameters_of(model) for model in models)
    moved = {name: value - models[0].policy.state_dict()[name] for name, value in half.items()}
    assert all(value.dtype == th.float32 for value in half.values())
    assert any((difference != 0).any() for difference in moved.values()), "bfloat16 changed nothing: it is not in use"
    initial = parameters_of(PWM("MlpPolicy", Drift(), seed=0, **SMALL))
    for name in ("world_model.dynamics.0.weight", "actor.mean.0.weight", "critic.layers.0.weight"):
        distance, way = (half[name] - single[name]).norm(), (single[name] - initial[name]).norm()
        assert distance < 0.5 * way, name


@pytest.mark.parametrize(
    ("precision", "device", "width", "has_bfloat16", "expected"),
    [
        ("auto", "cpu", 512, True, "bfloat16"),
        ("auto", "cpu", 384, True, "float32"),
        ("auto", "cpu", 512, False, "float32"),
        ("auto", "cuda", 512, True, "float32"),
        ("bfloat16", "cpu", 64, False, "bfloat16"),
        ("float32", "cpu", 512, True, "float32"),
    ],
)
def test_automatic_precision(monkeypatch, precision, device, width, has_bfloat16, expected):
    monkeypatch.setattr("sb3_pwm.common.precision.has_bfloat16_products", lambda: has_bfloat16)
    assert resolve_precision(precision, th.device(device), width) == expected


def test_automatic_precision_of_a_wide_model(monkeypatch):
    monkeypatch.setattr("sb3_pwm.common.precision.has_bfloat16_products", lambda: True)
    weights = []
    for precision in ("auto", "bfloat16", "float32"):
        shape = dict(size="200K", mlp_dim=512, encoder_dim=16, latent_dim=8)
        arguments = {**SMALL, "world_model": shape, "precision": precision, "seed": 0}
        weights.append(parameters_of(PWM("MlpPolicy", Drift(), **arguments).learn(60))["world_model.dynamics.0.weight"])
    th.testing.assert_close(weights[0], weights[1], atol=0.0, rtol=0.0)
    assert not th.equal(weights[0], weights[2])


def test_replay_buffer_on_the_device_teaches_the_same(tmp_path):
    models = []
    for storage in ("host", "device"):
        env = VecNormalize(make_vec_env(Drift, 2, seed=0))
        kwargs = dict(replay_buffer_kwargs=dict(storage=storage), buffer_size=64)  # small: old steps are overwritten
        models.append(PWM("MlpPolicy", env, seed=0, **SMALL, **kwargs).learn(100))
    host, device = models
    assert device.replay_buffer._rows is not None
    for name, value in parameters_of(host).items():
        th.testing.assert_close(parameters_of(device)[name], value, rtol=1e-2, atol=1e-3, msg=name)
    device.save_replay_buffer(tmp_path / "buffer.pkl")
    device.load_replay_buffer(tmp_path / "buffer.pkl")
    rows = device.replay_buffer._device_rows().clone()
    device.learn(2, reset_num_timesteps=False)
    changed = (device.replay_buffer._rows != rows).any(-1).any(-1)
    assert changed.sum() == 1  # the one step that was taken since


def test_checkpointed_rollout_computes_the_same():
    plain = PWM("MlpPolicy", Drift(), seed=0, horizon=5, **SMALL).learn(40)
    checkpointed = PWM("MlpPolicy", Drift(), seed=0, horizon=5, gradient_checkpointing=True, **SMALL).learn(40)
    assert_same_parameters(parameters_of(plain), parameters_of(checkpointed))


def test_updates_run_while_subprocesses_step(monkeypatch):
    """They come between sending the actions and waiting for what follows from them, not after that."""
    # Ten random steps of two environments, then two updates for each of twenty; the last have no step to hide behind.
    step, updates = ["send", "wait"], ["update", "update"]
    orders = {
        False: step * 10 + (step + updates) * 20,
        True: step * 11 + ["send", *updates, "wait"] * 19 + updates,
    }
    for overlap, expected in orders.items():
        env = make_vec_env(Drift, 2, vec_env_cls=SubprocVecEnv)
        model = PWM("MlpPolicy", env, seed=0, overlap_updates=overlap, gradient_steps=-1, **SMALL)
        order: list[str] = []

        def record(owner, method, event, order=order):
            original = getattr(owner, method)

            def recorded(*args):
                order.append(event)
                return original(*args)

            monkeypatch.setattr(owner, method, recorded)

        record(env, "step_async", "send")
        record(env, "step_wait", "wait")
        record(model.policy.return_scale, "update", "update")  # once in every update
        model.learn(60)
        assert order == expected
        assert model.n_updates == 60 - SMALL["learning_starts"]
        env.close()


def test_workers_are_asked_for_their_render_mode_once(monkeypatch):
    env = make_vec_env(Drift, 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs=dict(start_method="fork"))
    model = PWM("MlpPolicy", env, seed=0, **SMALL)
    asked: list[str] = []
    get_attr = env.get_attr
    monkeypatch.setattr(env, "get_attr", lambda name, indices=None: asked.append(name) or get_attr(name, indices))
    model.learn(24)
    model.learn(6, reset_num_timesteps=False)
    assert asked == ["render_mode"]
    other = VecMonitor(env)
    model.set_env(other)
    model.learn(6, reset_num_timesteps=False)
    assert len(other.episode_returns) == 2
    assert other.episode_lengths.sum() > 0  # it is the new environment that was stepped
    assert asked == ["render_mode"] * 3  # for VecMonitor, and for the wrapper around it
    env.close()


def test_overlap_leaves_no_environment_waiting_after_an_error(monkeypatch):
    env = make_vec_env(Drift, 2, vec_env_cls=SubprocVecEnv)
    model = PWM("MlpPolicy", env, seed=0, **SMALL)
    model.learn(30)

    def fail(*args):
        raise ValueError("stop here")

    with monkeypatch.context() as patched:
        patched.setattr(model.policy.reward_scale, "update", fail)
        with pytest.raises(ValueError, match="stop here"):
            model.learn(10, reset_num_timesteps=False)
    observations = env.reset()
    assert observations.shape == (2, 1)
    assert (np.abs(observations) <= 1.0).all()  # what a reset gives
    model.learn(10, reset_num_timesteps=False)
    env.close()


def test_out_of_memory_names_the_knobs_and_leaves_the_checkpoint(tmp_path):
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL).learn(30)
    model.save(tmp_path / "model")
    with pytest.raises(MemoryError, match=r"Lower batch_size \(now 1000000000000\)"):
        model.train(1, batch_size=10**12)
    assert_same_parameters(parameters_of(model), parameters_of(PWM.load(tmp_path / "model", device="cpu")))


def test_device_allocators_error_is_explained(monkeypatch):
    """What a GPU raises has another class; a host without one can only imitate it."""
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL).learn(30)

    def full(*args):
        raise th.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(model.policy.return_scale, "update", full)
    with pytest.raises(MemoryError, match=r"size of the world_model.*Tried to allocate 2\.00 GiB"):
        model.train(1, batch_size=8)


@pytest.mark.parametrize("what", ["model", "replay buffer"])
def test_interrupted_save_leaves_the_older_file(tmp_path, monkeypatch, what):
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL).learn(30)
    save, ending = (model.save, "zip") if what == "model" else (model.save_replay_buffer, "pkl")
    save(tmp_path / "older")
    before = (tmp_path / f"older.{ending}").read_bytes()

    def disk_full(file_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    model.learn(10, reset_num_timesteps=False)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "older")
    assert (tmp_path / f"older.{ending}").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [f"older.{ending}"]


# --- errors at the door -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(horizon=0), "horizon"),
        (dict(horizon=30, learning_starts=1000, buffer_size=20), "horizon=30 is longer than the 20 steps"),
        (dict(horizon=20, buffer_size=20, optimize_memory_usage=True), "horizon=20 is longer than the 19 steps"),
        (dict(td_lambda=1.5), "td_lambda"),
        (dict(rho=-0.1), "rho"),
        (dict(gamma=1.1), "gamma"),
        (dict(tau=2.0), "tau"),
        (dict(batch_size=0), "batch_size"),
        (dict(n_critic_epochs=0), "n_critic_epochs"),
        (dict(n_critic_minibatches=0.5), "n_critic_minibatches"),
        (dict(world_model_updates=-1), "world_model_updates"),
        (dict(replay_critic_coef=-0.5), "replay_critic_coef"),
        (dict(replay_critic_coef="automatic"), "replay_critic_coef"),
        (dict(precision="fp8"), "precision"),
        (dict(compile="always"), "compile"),
        (dict(replay_critic_coef=1.0, buffer_size=15), "replay_critic_horizon=16 is longer than the 15 steps"),
        (dict(ent_coef="much"), "ent_coef"),
        (dict(ent_coef="auto_0"), "ent_coef"),
        (dict(ent_coef=-1.0), "ent_coef"),
        (dict(ent_coef=float("nan")), "ent_coef"),
        (dict(ent_coef=None), "ent_coef"),
        (dict(target_entropy="x"), r"target_entropy .* must be a number, got 'x'"),
        (dict(target_entropy=float("nan")), "target_entropy"),
        (dict(td_lambda="much"), "td_lambda must be a number of at least 0 and of at most 1, got 'much'"),
        (dict(bc_coef="x"), "bc_coef"),
        (dict(buffer_size=100.5), "buffer_size"),
        (dict(train_freq=0), "train_freq"),
        (dict(train_freq=(-1, "step")), "train_freq"),
        (dict(gradient_steps=1.5), "gradient_steps"),
        (dict(gradient_steps=-2), "gradient_steps"),
        (dict(action_noise="x"), "action_noise"),
        (dict(world_model=3), "world_model"),
        (dict(dataset=3), "dataset"),
        (dict(learning_rate=-1.0), "learning_rate"),
        (dict(critic_learning_rate=-1.0), "critic_learning_rate"),
        (dict(critic_learning_rate="lin_-1"), "critic_learning_rate"),
        (dict(world_model_learning_rate=float("nan")), "world_model_learning_rate"),
        (dict(policy_kwargs=[1]), "policy_kwargs"),
        (dict(policy_kwargs=dict(n_critics=0)), "n_critics must be an integer of at least 1, got 0"),
        (dict(policy_kwargs=dict(n_critics=1.5)), "n_critics"),
        (dict(policy_kwargs=dict(log_std_init=float("nan"))), "log_std_init"),
        (dict(policy_kwargs=dict(log_std_min=10)), "log_std_min must be a number of at most 2, got 10"),
        (dict(policy_kwargs=dict(log_std_min="a")), "log_std_min"),
        (dict(policy_kwargs=dict(encoder_lr_scale="x")), "encoder_lr_scale"),
        (dict(policy_kwargs=dict(features_extractor_class="x")), "features_extractor_class"),
        (dict(policy_kwargs=dict(optimizer_class="x")), "optimizer_class"),
        (dict(critic_learning_rate="log_3"), "critic_learning_rate"),
        (dict(world_model_learning_rate="fast"), "world_model_learning_rate"),
        (dict(policy_kwargs=dict(net_arch=dict(pi=[64]))), "net_arch"),
        (dict(policy_kwargs=dict(activation_fn="tanh")), "activation_fn"),
        (dict(world_model="2M"), r"world_model='2M' is neither a preset \(200K, 1M, .*\) nor a file"),
        (dict(world_model="owner/walk"), r"nor a file .*; WorldModel\.from_pretrained\(\) reads a folder or the Hugg"),
        (dict(world_model=dict(size="2M")), "'2M'"),
        (dict(world_model=dict(latent_dim=30)), "latent_dim"),
        (dict(world_model=dict(latent_dims=32)), "has no field 'latent_dims': did you mean 'latent_dim'"),
        (dict(world_model_loss_kwargs=[1]), "world_model_loss_kwargs must be a dictionary"),
        (dict(world_model_loss_kwargs=dict(dynamic_coef=1)), "dynamics_coef.*, got 'dynamic_coef'"),
        (dict(world_model_loss_kwargs=dict(reward_coef=-1)), r"world_model_loss_kwargs\['reward_coef'\]"),
        (dict(replay_buffer_class=__import__("stable_baselines3").common.buffers.ReplayBuffer), "ReplayBuffer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PWM("MlpPolicy", Drift(), **{**SMALL, **arguments})


def test_what_is_no_environment():
    with pytest.raises(ValueError, match="not a Gymnasium environment"):
        PWM("MlpPolicy", 3, device="cpu")


def test_integers_for_fractions():
    policy_kwargs = {**SMALL["policy_kwargs"], "log_std_init": -3, "log_std_min": -4}
    model = PWM("MlpPolicy", Drift(), **{**SMALL, "policy_kwargs": policy_kwargs, "td_lambda": 1, "tau": 1}).learn(30)
    assert model.policy.actor.log_std.item() == pytest.approx(-3.0, abs=0.1)


def test_episodes_of_several_environments_are_no_unit():
    env = make_vec_env(Drift, n_envs=2)
    with pytest.raises(ValueError, match=r"train_freq=\(1, 'episode'\) counts episodes, and 2 environments"):
        PWM("MlpPolicy", env, **{**SMALL, "train_freq": (1, "episode")})
    model = PWM("MlpPolicy", Drift(), **{**SMALL, "train_freq": (1, "episode")})
    model.learn(25)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    with pytest.raises(ValueError, match="counts episodes, and 2 environments"):
        PWM.load(file, env, device="cpu")


def test_unknown_keyword_names_the_nearest():
    with pytest.raises(TypeError, match=r"no argument 'horizn': did you mean 'horizon'"):
        PWM("MlpPolicy", Drift(), horizn=4)
    with pytest.raises(TypeError, match=r"no argument 'use_sde'.*without gSDE; action_noise adds to it"):
        PWM("MlpPolicy", Drift(), use_sde=True)
    with pytest.raises(TypeError, match=r"no argument 'n_steps': .*TD\(lambda\).*set td_lambda and horizon"):
        PWM("MlpPolicy", Drift(), n_steps=3)
    with pytest.raises(TypeError, match=r"no argument 'n_critic': did you mean 'n_critics'"):
        PWM("MlpPolicy", Drift(), policy_kwargs=dict(n_critic=4))


@pytest.mark.parametrize(
    ("old", "value", "new"),
    [
        ("world_model_steps", 0, "world_model_updates"),
        ("critic_epochs", 2, "n_critic_epochs"),
        ("critic_minibatches", 2, "n_critic_minibatches"),
        ("behaviour_coef", 1.0, "bc_coef"),
        ("behaviour_temperature", 1.0, "bc_temperature"),
        ("checkpoint_rollout", True, "gradient_checkpointing"),
        ("overlap", False, "overlap_updates"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(tmp_path, old, value, new):
    with pytest.raises(TypeError, match=rf"no argument '{old}': it is called {new} now"):
        PWM("MlpPolicy", Drift(), **{old: value})
    PWM("MlpPolicy", Drift(), **SMALL).save(tmp_path / "model")
    with pytest.raises(TypeError, match=rf"no argument '{old}': it is called {new} now"):
        PWM.load(tmp_path / "model", **{old: value})


@pytest.mark.parametrize(
    ("old", "remedy"),
    [
        (dict(world_model_size="1M"), r"give the preset's name as PWM\(world_model=\.\.\.\)"),
        (dict(latent_dim=32), r"PWM\(world_model=dict\(latent_dim=\.\.\.\)\)"),
        (dict(world_model_kwargs=dict(mlp_dim=8)), r"given as PWM\(world_model=dict\(\.\.\.\)\)"),
        (dict(world_model_config=dict(mlp_dim=8)), r"given as PWM\(world_model=dict\(\.\.\.\)\)"),
    ],
)
def test_old_names_in_policy_kwargs_are_refused_with_the_new_one(old, remedy):
    with pytest.raises(TypeError, match=rf"no argument '{next(iter(old))}': .*{remedy}"):
        PWM("MlpPolicy", Drift(), policy_kwargs=old)


def test_discrete_actions_are_refused():
    with pytest.raises(ValueError, match=r"continuous action space.*DQN or PPO"):
        PWM("MlpPolicy", "CartPole-v1")


@pytest.mark.parametrize(
    ("space", "low", "high"),
    [
        (spaces.Box(-np.inf, np.inf, (2,), np.float32), -10, 10),
        (spaces.Box(0.0, np.inf, (1,), np.float64), 0, 10),
        (spaces.Box(-np.inf, 4.0, (1, 2), np.float32), -10, 4),
        (spaces.Box(-np.inf, np.inf, (1,), np.int64), -10, 10),
    ],
    ids=str,
)
def test_unbounded_actions_are_refused_and_the_advice_works(space, low, high):
    env = RandomEnv(action_space=space)
    with pytest.raises(ValueError, match=r"finite lower and upper bound.*place of 10") as error:
        PWM("MlpPolicy", env)
    advice = re.search(r"gymnasium\.wrappers\..*(?=\.$)", str(error.value)).group()
    bounded = eval(advice, dict(gymnasium=gym, np=np, env=env))
    model = PWM("MlpPolicy", bounded, **SMALL).learn(25)  # the environment checks its actions
    assert model.action_space == spaces.Box(low, high, space.shape, space.dtype)


def test_a_model_without_an_environment_is_refused(tmp_path):
    for arguments in ({}, dict(offline=True), dict(dataset=str(tmp_path)), dict(world_model="5M")):
        with pytest.raises(ValueError, match=r"needs an environment, got env=None.*With offline=True it only gives"):
            PWM("MlpPolicy", None, **arguments)


# --- Actions of every kind ------------------------------------------------------------------------------------------


class Counted(gym.Env):
    """The reward is the action, and 3 is best."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, space):
        self.action_space, self.taken = space, []

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        self.taken.append(np.array(action, float).ravel())
        return np.zeros(1, np.float32), -((float(action[0]) - 3.0) ** 2), False, self.t == 10, {}


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int8, np.uint8, np.float16, np.float64])
@pytest.mark.parametrize("options", [dict(), dict(optimize_memory_usage=True), dict(noise=True, n_envs=2)], ids=str)
def test_actions_of_every_dtype_are_stored_as_they_were_taken(dtype, options, tmp_path):
    n_envs, once = options.get("n_envs", 1), options.get("optimize_memory_usage", False)
    noise = NormalActionNoise(np.zeros(1), 0.3 * np.ones(1)) if "noise" in options else None
    low = 0 if dtype == np.uint8 else -5
    env = DummyVecEnv([lambda: Counted(spaces.Box(low, 5, (1,), dtype)) for _ in range(n_envs)])
    arguments = dict(optimize_memory_usage=once, action_noise=noise, seed=0, gradient_steps=0, **SMALL)
    model = PWM("MlpPolicy", env, **arguments).learn(60)
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    taken = np.stack(env.get_attr("taken"), axis=1)  # (steps, n_envs, 1)
    expected = 2 * (taken - low) / (5 - low) - 1  # such as 0.6 for 3 in [-5, 5]
    stored = model.replay_buffer.actions[: model.replay_buffer.size()]
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored, expected, atol=1e-6)
    resized = model.replay_buffer.resize_n_envs(3).actions[:20]
    np.testing.assert_allclose(resized[:, 0, 0], expected[:20, 0, 0], atol=1e-6)
    actions = model.predict(np.zeros((50, 1), np.float32))[0]
    assert actions.dtype == dtype
    assert low <= actions.min() < actions.max() <= 5
    # Actions and rewards that the world model learns from belong together.
    batch = model.replay_buffer.sample_sequences(16, 3)
    action = low + (batch.actions[..., 0] + 1) / 2 * (5 - low)
    th.testing.assert_close(batch.rewards, -((action - 3) ** 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_an_action_dimension_with_equal_bounds_is_the_bound(dtype):
    env = Counted(spaces.Box(np.array([-5, 2], dtype), np.array([5, 2], dtype), dtype=dtype))
    noise = NormalActionNoise(np.zeros(2), np.ones(2))
    model = PWM("MlpPolicy", env, seed=0, action_noise=noise, **SMALL).learn(40)
    assert {step[1] for step in env.taken} == {2.0}
    assert (model.replay_buffer.actions[:40, 0, 1] == 0.0).all()
    assert model.predict(np.zeros(1, np.float32))[0][1] == 2
    # The world model has never seen another value there, and what the policy imagines there changes nothing.
    latents, actions = th.rand(1, 16).expand(2, -1), th.tensor([[0.5, -1.0], [0.5, 1.0]])
    for predict in (model.world_model.next, model.world_model.reward):
        first, second = predict(latents, actions).detach()
        th.testing.assert_close(first, second, rtol=0, atol=1e-6)


@pytest.mark.parametrize("quantity", ["observation", "reward"])
def test_nan_from_the_environment_stops_with_the_step(quantity):
    model = PWM("MlpPolicy", Drift(bad=quantity, at=30), seed=0, **SMALL)
    with pytest.raises(ValueError, match=f"{quantity}.* is NaN or infinite at step 30"):
        model.learn(60)
    # The poisoned step was not stored, and the model can be saved
    assert model.replay_buffer.size() == 29
    assert np.isfinite(model.replay_buffer.rewards[:29]).all()
    assert np.isfinite(model.replay_buffer.next_observations[:29]).all()


def test_nan_in_the_first_observation_stops_at_once():
    model = PWM("MlpPolicy", Drift(bad="first observation"), seed=0, **SMALL)
    with pytest.raises(ValueError, match=r"observation.* is NaN or infinite at step 1"):
        model.learn(60)


def test_nan_gradient_stops_with_step_and_name():
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL).learn(40)
    before = parameters_of(model)
    with th.no_grad():
        model.policy.reward_scale.average.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"gradient of the actor loss is not finite.* at step 40"):
        model.train(gradient_steps=1, batch_size=8)
    after = parameters_of(model)
    assert all(th.equal(before[name], after[name]) for name in before if name.startswith("actor"))


def test_nan_gradient_is_found_after_the_updates_where_waiting_is_dear(monkeypatch):
    model = PWM("MlpPolicy", Drift(), seed=0, **SMALL).learn(40)
    unchecked = partial(optimizers.step, check_finite=False)  # as on a GPU
    monkeypatch.setattr(optimizers, "step", lambda *args, check_finite: unchecked(*args))
    with th.no_grad():
        model.policy.actor.mean[0].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"train/\w+ is not finite at step 40, update 22"):
        model.train(gradient_steps=2, batch_size=8)


class HostReads(TorchDispatchMode):
    """Counts the operations that need a tensor's value on the host."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (th.ops.aten._local_scalar_dense.default, th.ops.aten.nonzero.default):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("arguments", [{}, dict(ent_coef=0.01, replay_critic_coef=1.0, replay_critic_horizon=4)])
def test_an_update_does_not_wait_for_the_device(monkeypatch, arguments):
    model = PWM("MlpPolicy", Drift(), seed=0, **{**SMALL, **arguments}).learn(40)
    original, counts = optimizers.step, {}
    for check in (True, False):
        step = partial(original, check_finite=check)
        monkeypatch.setattr(optimizers, "step", lambda *args, check_finite, step=step: step(*args))
        for n_updates in (1, 3):
            with HostReads() as reads:
                model.train(gradient_steps=n_updates, batch_size=8)
            counts[check, n_updates] = reads.count
    # Three gradients are checked in every update; nothing else reads a value, but for the metrics at the end.
    assert counts[True, 1] - counts[False, 1] == 3
    assert counts[True, 3] - counts[False, 3] == 9
    assert counts[False, 3] == counts[False, 1] <= 1


# --- learning -----------------------------------------------------------------------------------------------------


def test_reaches_the_known_optimum():
    """On the linear-quadratic task the policy is near the Riccati gain, and its return near the optimal one."""
    gamma = 0.95
    gain = Drift.optimal_gain(gamma)
    model = PWM(
        "MlpPolicy",
        Drift(),
        seed=0,
        gamma=gamma,
        learning_starts=300,
        batch_size=64,
        learning_rate=lambda progress: 2e-3 * progress,
        critic_learning_rate="lin_2e-3",
        world_model_learning_rate=1e-3,
        device="cpu",
        world_model=dict(latent_dim=32, mlp_dim=64, encoder_dim=64),
        policy_kwargs=dict(net_arch=dict(pi=[64], vf=[64]), activation_fn=nn.SiLU),
    )
    model.learn(1200)

    def mean_return(policy) -> float:
        total = 0.0
        for x in np.linspace(-1, 1, 11):
            for _ in range(Drift.LENGTH):
                a = float(np.clip(policy(x), -2, 2))
                total -= Drift.Q * x**2 + Drift.R * a**2
                x = Drift.A * x + Drift.B * a
        return total / 11

    def learned(x):
        return model.predict(np.array([x], np.float32), deterministic=True)[0][0]

    optimum, nothing = mean_return(lambda x: -gain * x), mean_return(lambda x: 0.0)
    reached = mean_return(learned)
    assert nothing < 5 * optimum  # returns are negative: doing nothing costs more than five times the optimum
    assert reached > optimum + 0.05 * (nothing - optimum), (reached, optimum, nothing)
    for x in (-0.8, -0.4, 0.4, 0.8):
        assert learned(x) == pytest.approx(-gain * x, abs=0.35)


@pytest.mark.slow
def test_pendulum_beats_sac_at_equal_steps():
    """About three minutes: 2,000 steps of Pendulum-v1, where SAC has not yet learned to swing up."""
    env = make_vec_env("Pendulum-v1")
    pwm = PWM("MlpPolicy", env, seed=0, learning_starts=300, device="cpu").learn(2000)
    sac = SAC("MlpPolicy", env, seed=0, learning_starts=300, device="cpu").learn(2000)
    scores = [evaluate_policy(model, make_vec_env("Pendulum-v1", seed=7), 10)[0] for model in (pwm, sac)]
    assert scores[0] > -250
    assert scores[0] > scores[1]


def test_replay_buffer_subclass_is_used():
    class Counting(SequenceReplayBuffer):
        calls = 0

        def sample_sequences(self, *args, **kwargs):
            Counting.calls += 1
            return super().sample_sequences(*args, **kwargs)

    PWM("MlpPolicy", Drift(), seed=0, replay_buffer_class=Counting, **SMALL).learn(30)
    assert Counting.calls > 0
