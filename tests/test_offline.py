"""PWM with a pretrained world model and offline data: no environment is stepped, and everything else is as ever."""

import copy
import math
import re
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import optuna
import pytest
import torch as th
from random_env import TINY, RandomEnv
from rl_zoo3.callbacks import RawStatisticsCallback, SaveVecNormalizeCallback, TrialEvalCallback
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_pwm import PWM, OfflineDataset, WorldModel, WorldModelConfig
from sb3_pwm.data.types import Episode, SourceEpisode
from sb3_pwm.pwm.networks import Actor
from sb3_pwm.world_model import world_model_loss

SIZES = dict(latent_dim=16, encoder_dim=24, mlp_dim=24, task_dim=4, activation="silu")
NETWORKS = dict(net_arch=dict(pi=[16], vf=[16]))
BOX = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)


def episodes(task, env_id, n_episodes, n_steps=50, seed=0):
    """Random behavior, cut off after some steps."""
    env = gymnasium.make(env_id)
    env.action_space.seed(seed)
    scale = env.action_space.high
    for number in range(n_episodes):
        observations, actions, rewards = [env.reset(seed=seed + number)[0]], [], []
        for _ in range(n_steps):
            action = env.action_space.sample()
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            actions.append(action / scale)
            rewards.append(reward)
        arrays = (np.array(part, np.float32) for part in (observations, actions, rewards))
        yield SourceEpisode(task, Episode(*arrays, False), f"episode {number}")


@pytest.fixture(scope="module")
def dataset():
    """Of a task with 3 observations and 1 action, and of one with 8 and 2."""
    parts = [*episodes("pendulum-v1", "Pendulum-v1", 6), *episodes("cup-catch", "Cup-catch", 4)]
    return OfflineDataset.from_episodes(parts)


@pytest.fixture(scope="module")
def world_model(dataset):
    th.manual_seed(0)
    return WorldModel(
        WorldModelConfig(
            observation_dim=dataset.observation_dim, action_dim=dataset.action_dim, tasks=dataset.tasks, **SIZES
        )
    )


def make(env_id, world_model, dataset, **kwargs):
    defaults = dict(batch_size=16, horizon=4, seed=0, device="cpu", policy_kwargs=dict(NETWORKS), offline=True)
    return PWM("MlpPolicy", gymnasium.make(env_id), world_model=world_model, dataset=dataset, **{**defaults, **kwargs})


class Forbidden(gymnasium.Wrapper):
    """An environment that may be reset, but not stepped."""

    def step(self, action):
        raise AssertionError("stepped")


# --- Extraction -----------------------------------------------------------------------------------------------------


def test_a_timestep_is_an_update_and_no_environment_is_stepped(dataset, world_model):
    class Count(BaseCallback):
        steps = 0

        def _on_step(self):
            self.steps += 1
            return True

    env = Forbidden(gymnasium.make("Pendulum-v1"))
    model = PWM(
        "MlpPolicy", env, world_model=world_model, dataset=dataset, offline=True, device="cpu", seed=0, batch_size=16,
        policy_kwargs=dict(NETWORKS),
    )  # fmt: skip
    before = [parameter.clone() for parameter in model.policy.actor.parameters()]
    callback = Count()
    model.learn(30, callback=callback)
    assert (model.num_timesteps, model.n_updates, callback.steps) == (30, 30, 30)
    assert any(not th.equal(b, a) for b, a in zip(before, model.policy.actor.parameters(), strict=True))
    # The world model is frozen, and the given one is not the policy's own.
    for name, value in world_model.state_dict().items():
        assert th.equal(value, model.policy.world_model.state_dict()[name])
    assert model.policy.world_model is not world_model


def test_it_is_the_task_that_is_extracted(dataset, world_model):
    """The policy sees latents of its own task, and acts in the environment's dimensions."""
    for env_id, task, shape in (("Pendulum-v1", "pendulum-v1", 1), ("Cup-catch", "cup-catch", 2)):
        model = make(env_id, world_model, dataset)
        assert model.policy.task == task
        observation = np.linspace(-1.0, 1.0, *model.observation_space.shape, dtype=np.float32)
        padded = np.zeros(8, np.float32)
        padded[: len(observation)] = observation
        with th.no_grad():
            latent = world_model.encode(th.as_tensor(padded)[None], task)  # a batch of one, as predict makes it
            expected = th.tanh(model.policy.actor(latent)[0])[0].numpy()
        action = model.predict(observation, deterministic=True)[0]
        assert action.shape == (shape,)
        np.testing.assert_allclose(action, expected * model.action_space.high, rtol=1e-5, atol=1e-6)
        batch = model.policy.featurize(model.replay_buffer.sample_sequences(8, 4))
        assert batch.task.tolist() == [dataset.tasks.index(task)] * 8
        assert batch.actions.shape[-1] == shape


def test_replay_buffer_holds_the_tasks_episodes(dataset, world_model):
    model = make("Pendulum-v1", world_model, dataset)
    data = dataset.task_data("pendulum-v1")
    buffer = model.replay_buffer
    assert buffer.size() == 300
    for number in range(6):
        episode, rows = data.episode(number), slice(50 * number, 50 * number + 50)
        np.testing.assert_array_equal(buffer.observations[rows, 0], episode.observations[:-1])
        np.testing.assert_array_equal(buffer.next_observations[rows, 0], episode.observations[1:])
        np.testing.assert_array_equal(buffer.actions[rows, 0], episode.actions)
        np.testing.assert_array_equal(buffer.rewards[rows, 0], episode.rewards)
    assert np.flatnonzero(buffer.dones[:300, 0]).tolist() == list(range(49, 300, 50))
    assert np.flatnonzero(buffer.timeouts[:300, 0]).tolist() == list(range(49, 300, 50))


def test_several_environments_share_the_data(dataset):
    env = make_vec_env("Pendulum-v1", n_envs=4)
    model = PWM("MlpPolicy", env, dataset=dataset, task="pendulum-v1", learning_starts=20, horizon=4, device="cpu")
    buffer = model.replay_buffer
    assert buffer.size() == 75
    # Each column is a stretch of the data, cut off at its end
    steps = np.concatenate([dataset.task_data("pendulum-v1").episode(n).rewards for n in range(6)])
    np.testing.assert_array_equal(buffer.rewards[:75].T.ravel(), steps)
    assert np.flatnonzero(buffer.dones[:75, 0]).tolist() == [49, 74]
    assert buffer.timeouts[74].tolist() == [1.0] * 4
    model.learn(20)


def test_evaluation_callback_runs_in_the_real_environment(dataset, world_model, tmp_path):
    model = make("Pendulum-v1", world_model, dataset)
    evaluation = EvalCallback(
        gymnasium.make("Pendulum-v1"), eval_freq=10, n_eval_episodes=1, log_path=str(tmp_path), verbose=0
    )
    model.learn(30, callback=evaluation)
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [10, 20, 30]


def test_callbacks_of_sb3_and_of_rl_zoo3(dataset, world_model, tmp_path):
    class Watch(BaseCallback):
        def _on_step(self):
            step = self.locals
            assert (step["rewards"].tolist(), step["dones"].tolist(), step["infos"]) == (
                [0.0] * 2,
                [False] * 2,
                [{}, {}],
            )
            assert step["env"] is self.training_env
            np.testing.assert_array_equal(step["new_obs"], self.model._last_obs)
            return True

    def evaluation_env():
        return make_vec_env("Pendulum-v1", env_kwargs=dict(max_episode_steps=5))

    two = make_vec_env("Pendulum-v1", 2)
    model = PWM(
        "MlpPolicy", two, world_model=world_model, dataset=dataset, offline=True, device="cpu", batch_size=8,
        tensorboard_log=str(tmp_path), policy_kwargs=dict(NETWORKS),
    )  # fmt: skip
    evaluation = EvalCallback(
        evaluation_env(), eval_freq=4, n_eval_episodes=1, verbose=0,
        callback_on_new_best=StopTrainingOnRewardThreshold(0.0),
        callback_after_eval=StopTrainingOnNoModelImprovement(100),
    )  # fmt: skip
    trial = TrialEvalCallback(evaluation_env(), optuna.create_study().ask(), n_eval_episodes=1, eval_freq=5)
    others = [StopTrainingOnMaxEpisodes(1), EveryNTimesteps(3, LogEveryNTimesteps(3)), RawStatisticsCallback()]
    files = [SaveVecNormalizeCallback(1, str(tmp_path)), CheckpointCallback(5, str(tmp_path), save_replay_buffer=True)]
    model.learn(10, [Watch(), evaluation, trial, *others, *files], progress_bar=True)
    assert model.n_updates == 10
    assert (evaluation.n_calls, trial.eval_idx) == (10, 2)
    assert (tmp_path / "rl_model_replay_buffer_10_steps.pkl").is_file()
    assert (
        model.learn(5, lambda variables, _: len(variables["infos"]) < 2).num_timesteps == 1
    )  # the first step stops it


def test_fine_tuning_changes_the_world_model(dataset, world_model):
    model = make("Pendulum-v1", world_model, dataset, world_model_updates=2)
    model.learn(5)
    names = ("encoder.0.weight", "dynamics.0.weight", "reward_network.0.weight", "task_embedding.weight")
    for name in names:
        assert not th.equal(model.policy.world_model.state_dict()[name], world_model.state_dict()[name]), name


def test_rewards_are_scaled_with_a_frozen_world_model_too(dataset, world_model):
    model = make("Pendulum-v1", world_model, dataset)
    model.learn(50)
    rewards = np.concatenate([dataset.task_data("pendulum-v1").episode(n).rewards for n in range(6)])
    assert float(model.policy.reward_scale.value) == pytest.approx(np.sqrt((rewards**2).mean()), rel=0.15)


def test_offline_to_online(dataset, world_model):
    model = make("Pendulum-v1", world_model, dataset)
    model.learn(10)
    assert "train/bc_loss" in model.logger.name_to_value
    assert (model.phase.name, model.phase.n_world_model_updates, model.phase.replay_critic_coef) == ("offline", 0, 1.0)
    model.offline = False
    model.learn(40, reset_num_timesteps=False)
    # The behavior term goes on: without it the extracted policy is lost in hundreds of updates.
    assert "train/bc_loss" in model.logger.name_to_value
    assert (model.phase.name, model.phase.n_world_model_updates) == ("offline_to_online", 1)
    assert model.num_timesteps == 50
    assert model.replay_buffer.size() == 340
    # The world model learns again, on data of both
    assert not th.equal(model.policy.world_model.encoder[0].weight, world_model.encoder[0].weight)


def test_offline_the_learning_rate_of_the_actor_decays(dataset, world_model):
    """The same by PWM() as by ``sb3-pwm extract``: the last updates decide how good the policy is."""

    def learned(**options):
        model = make("Pendulum-v1", world_model, dataset, **options)
        rates = []

        def look(*_):
            if model.n_updates:
                rates.append(model.policy.actor_optimizer.param_groups[0]["lr"])
            return True

        return model.learn(4, callback=look), rates

    model, rates = learned()
    assert rates == pytest.approx([3.75e-4, 2.5e-4, 1.25e-4])  # before the second, third and fourth update
    model.learn(2, callback=None, reset_num_timesteps=False)
    assert model.policy.actor_optimizer.param_groups[0]["lr"] == 0.0
    model.offline = False
    model.learn(30, reset_num_timesteps=False)
    assert model.policy.actor_optimizer.param_groups[0]["lr"] == pytest.approx(5e-5)  # a tenth, and constant
    assert learned(learning_rate=1e-3)[1] == pytest.approx([1e-3] * 3)


def test_learning_rates_after_offline_learning_are_a_tenth(dataset, world_model):
    """With the rates of learning from scratch, the policy that was extracted is lost."""
    rates = dict(learning_rate=4e-4, critic_learning_rate=3e-4, world_model_learning_rate=2e-4)

    def learned(**options):
        model = make("Pendulum-v1", world_model, dataset, **rates, **options).learn(2)
        offline = rates_of(model)
        model.offline = False
        model.learn(20, reset_num_timesteps=False)
        return offline, rates_of(model), model.logger.name_to_value["train/learning_rate"]

    def rates_of(model):
        optimizers = (getattr(model.policy, f"{name}_optimizer") for name in ("actor", "critic", "world_model"))
        return [optimizer.param_groups[0]["lr"] for optimizer in optimizers]

    offline, online, logged = learned()
    assert offline == pytest.approx([4e-4, 3e-4, 2e-4])
    assert online == pytest.approx([4e-5, 3e-5, 2e-5])
    assert logged == pytest.approx(4e-5)
    offline, online, _ = learned(lr_scale=0.5)  # a number counts in every phase
    assert offline == online == pytest.approx([2e-4, 1.5e-4, 1e-4])
    with pytest.raises(ValueError, match="lr_scale"):
        make("Pendulum-v1", world_model, dataset, lr_scale=0.0)


def test_offline_and_afterwards_the_average_of_the_actor_acts(dataset, world_model, tmp_path):
    def parameters(actor):
        return th.nn.utils.parameters_to_vector(actor.parameters()).clone()

    model = make("Pendulum-v1", world_model, dataset, actor_tau="auto", learning_rate=5e-3)
    policy, train = model.policy, model.train
    expected, n_updates = parameters(policy.actor), 0

    def train_once(gradient_steps, batch_size):
        nonlocal expected, n_updates
        assert gradient_steps == 1
        train(gradient_steps, batch_size)
        share = 9 / (10 + n_updates)  # the coefficient of 0.005 is for many updates
        expected, n_updates = (1 - share) * expected + share * parameters(policy.actor), n_updates + 1

    model.train = train_once
    model.learn(10)
    th.testing.assert_close(parameters(policy.actor_average), expected)
    model.offline = False
    model.learn(30, reset_num_timesteps=False)
    th.testing.assert_close(parameters(policy.actor_average), expected)
    assert not th.equal(parameters(policy.actor), expected)

    observation = np.array([0.5, 0.8, 0.1], np.float32)
    latent = policy.encode(th.as_tensor(observation).unsqueeze(0))
    average = 2.0 * th.tanh(policy.actor_average(latent)[0]).item()
    assert model.predict(observation, deterministic=True)[0].item() == pytest.approx(average, abs=1e-5)
    del model.train
    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", device="cpu")
    assert loaded.predict(observation, deterministic=True)[0].item() == pytest.approx(average, abs=1e-5)
    # Parameters of a model that had no average: the actor acts.
    saved = model.get_parameters()
    saved["policy"] = {name: value for name, value in saved["policy"].items() if "actor_average" not in name}
    loaded.set_parameters(saved)
    assert th.equal(parameters(loaded.policy.actor_average), parameters(policy.actor))


def test_the_actor_sees_normalized_latents_from_offline_learning_on(dataset, world_model, tmp_path):
    model = make("Pendulum-v1", world_model, dataset).learn(30)
    policy = model.policy
    observations = th.as_tensor(dataset.task_data("pendulum-v1").observations)
    with th.no_grad():
        latents = policy.encode(observations)
        mean, std = latents.mean(0), latents.std(0)
        statistics = policy.actor.normalization
        # Of a sample of the steps, most of them from the start of an episode.
        assert ((statistics.mean[0] - mean).abs() / std).max() < 0.5
        assert 0.5 < (statistics.std[0] / std).median() < 2.0
        normalized = (latents - statistics.mean[0]) / statistics.std[0].square().mean().sqrt()
        for actor in (policy.actor, policy.actor_average):
            th.testing.assert_close(actor(latents)[0], actor.mean(normalized.clamp(-10.0, 10.0)))

    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", env=gymnasium.make("Pendulum-v1"), dataset=dataset, device="cpu")
    assert th.equal(loaded.policy.actor.normalization.mean, statistics.mean)
    loaded.learn(5)
    assert not th.equal(loaded.policy.actor.normalization.mean, statistics.mean)
    assert th.equal(loaded.policy.actor.normalization.mean, loaded.policy.actor_average.normalization.mean)

    # Parameters of a model that was saved before latents were normalized: they are seen as they are.
    saved = model.get_parameters()
    saved["policy"] = {name: value for name, value in saved["policy"].items() if ".normalization." not in name}
    new = make("Pendulum-v1", world_model, dataset)
    new.set_parameters(saved)
    assert th.equal(new.policy.actor(latents)[0], policy.actor.mean(latents))


def test_latents_are_as_they_are_in_online_learning_and_on_request(dataset, world_model):
    online = PWM("MlpPolicy", "Pendulum-v1", policy_kwargs=TINY, learning_starts=10, device="cpu").learn(20)
    assert online.n_updates > 0
    assert not online.policy.actor.normalization.count.any()
    latents = th.rand(4, online.world_model.config.latent_dim)
    assert th.equal(online.policy.actor(latents)[0], online.policy.actor.mean(latents))

    plain = make("Pendulum-v1", world_model, dataset, policy_kwargs=dict(normalize_latents=False)).learn(3)
    latents = th.rand(4, world_model.config.latent_dim)
    assert th.equal(plain.policy.actor(latents)[0], plain.policy.actor.mean(latents))


def test_dropout_leaves_units_out(dataset, world_model):
    actor = make("Pendulum-v1", world_model, dataset, policy_kwargs=dict(net_arch=[8, 16])).policy.actor
    latents = th.rand(1_000, world_model.config.latent_dim)
    masks = actor.dropout_masks(1_000, 0.3)
    assert [tuple(mask.shape) for mask in masks] == [(1_000, 8), (1_000, 16)]
    for mask in masks:
        assert set(mask.unique().tolist()) == {0.0, th.tensor(1.0 / 0.7).item()}
        assert (mask == 0.0).float().mean() == pytest.approx(0.3, abs=0.03)
    all_units = [th.ones_like(mask) for mask in masks]
    assert th.allclose(actor.masked_means(latents, all_units), actor(latents)[0])

    # A unit that is left out is one whose weights to the next layer are zero.
    all_units[1][:, 3] = 0.0
    without = actor.masked_means(latents, all_units)
    with th.no_grad():
        actor.mean[-1].weight[:, 3] = 0.0
    assert th.allclose(without, actor(latents)[0])


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_only_the_behavior_term_has_dropout(dataset, world_model, optimizer, monkeypatch):
    options = dict(policy_optimizer=optimizer, batch_size=32)
    model = make("Pendulum-v1", world_model, dataset, **options)
    assert model.phase.bc_dropout == 0.3  # 300 steps of data
    drawn, used = [], []
    draw, mean = Actor.dropout_masks, Actor.masked_means
    monkeypatch.setattr(Actor, "dropout_masks", lambda self, *args: drawn.append(draw(self, *args)) or drawn[-1])
    monkeypatch.setattr(Actor, "masked_means", lambda self, *args: used.append(args[1]) or mean(self, *args))
    model.learn(3)
    assert len(drawn) == 3
    assert [masks is used[-1] for masks in drawn] == [False, False, True]
    assert len(used) == (3 if optimizer == "adam" else model.policy.actor_optimizer.n_evaluations)

    drawn.clear()
    model = make("Pendulum-v1", world_model, dataset, bc_dropout=0.0, **options).learn(3)
    assert not drawn
    with pytest.raises(ValueError, match=r"bc_dropout .* below 1"):
        make("Pendulum-v1", world_model, dataset, bc_dropout=1.0)


def test_a_data_set_alone_is_a_head_start(dataset):
    model = PWM(
        "MlpPolicy", gymnasium.make("Pendulum-v1"), dataset=dataset, learning_starts=10, device="cpu", seed=0,
        policy_kwargs=dict(NETWORKS),
    )  # fmt: skip
    model.learn(20)
    assert model.replay_buffer.size() == 320
    assert model.n_updates == 10
    assert "train/bc_loss" not in model.logger.name_to_value


def test_imitated_steps_are_independent_of_each_other(dataset, world_model):
    """Neighbors in time come together as rarely as chance has it, and what they are worth is told by the data."""
    model = make("Pendulum-v1", world_model, dataset, discounted_fraction=0.0, gamma=0.9).learn(5)
    data = dataset.task_data("pendulum-v1")  # 6 episodes of 50 steps, which are cut off
    steps = [(n, t) for n in range(6) for t in range(50)]
    rows = np.array([data.first[n] + t for n, t in steps])
    neighbors = 0
    for _ in range(200):
        drawn = model._replay_steps(20)
        assert drawn.mask.sum() == 20
        found = (data.actions[rows] == drawn.actions.numpy().T).argmax(0)  # no two actions are the same
        neighbors += len({steps[i] for i in found} & {(n, t + 1) for n, t in (steps[i] for i in found)})
    assert neighbors / 200 == pytest.approx(20 * 19 / 300, rel=0.25)

    with th.no_grad():
        values = model.critic_target(model.policy.encode(th.as_tensor(data.observations))).amin(0)
    for i, advantage in zip(found, drawn.advantages.tolist(), strict=True):
        (n, t), value = steps[i], values[rows[i]].item()
        rewards = data.episode(n).rewards[t:] / model.policy.reward_scale.value.item()
        outcome = sum(0.9**k * reward for k, reward in enumerate(rewards))
        last = values[data.first[n] + 50].item()
        assert advantage == pytest.approx(outcome + 0.9 ** len(rewards) * last - value, rel=1e-4, abs=1e-4)


def test_behavior_coef_draws_the_policy_to_the_data(world_model):
    """All data with one action: the policy's mean comes near it, the more the larger the coefficient."""
    constant = [
        SourceEpisode("pendulum-v1", e.episode._replace(actions=np.full_like(e.episode.actions, 0.6)), e.where)
        for e in episodes("pendulum-v1", "Pendulum-v1", 3)
    ]
    data = OfflineDataset.from_episodes(constant)
    model = make("Pendulum-v1", world_model, data, bc_coef=10.0, learning_rate=3e-3)
    model.learn(200)
    states = data.task_data("pendulum-v1").episode(0).observations
    actions = model.predict(states, deterministic=True)[0] / 2.0
    assert np.abs(actions - 0.6).mean() < 0.15
    assert model.logger.name_to_value["train/bc_loss"] < math.log(0.05 + 0.01)  # a mean distance of 0.05


def test_behavior_temperature_prefers_what_turned_out_well(world_model):
    """Two behaviors in the same states, one rewarded: cold, the policy takes after that one, hot, after both."""
    parts = []
    for part in episodes("pendulum-v1", "Pendulum-v1", 4):
        for action, reward in ((0.6, 1.0), (-0.6, 0.0)):
            actions, rewards = np.full_like(part.episode.actions, action), np.full_like(part.episode.rewards, reward)
            parts.append(part._replace(episode=part.episode._replace(actions=actions, rewards=rewards)))
    data = OfflineDataset.from_episodes(parts)
    states = np.concatenate([part.episode.observations for part in parts])
    means = []
    for temperature in (0.3, np.inf):
        model = make(
            "Pendulum-v1", world_model, data, bc_coef=10.0, bc_temperature=temperature, gamma=0.5,
            learning_rate=3e-3,
        )  # fmt: skip
        model.learn(200)
        means.append(model.predict(states, deterministic=True)[0].mean() / 2.0)
    assert means[0] > 0.4
    assert abs(means[1]) < 0.2


# --- Episodes that end, and a world model that does not know it -----------------------------------------------------


class Cliff(gymnasium.Env):
    """Every step is worth 1, and the third ends the episode for good."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (4,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observations = np.eye(4, dtype=np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observations[0], {}

    def step(self, action):
        self.t += 1
        return self.observations[self.t], 1.0, self.t == 3, False, {}


def cliff_data(n_episodes=40, rewards=(1.0, 2.0, 3.0), terminated=True):
    """Episodes of :class:`Cliff` with random actions."""
    actions = np.random.default_rng(0).uniform(-1, 1, (n_episodes, 3, 1)).astype(np.float32)
    return OfflineDataset.from_episodes(
        SourceEpisode(
            "cliff", Episode(Cliff.observations, action, np.array(rewards, np.float32), terminated), f"episode {n}"
        )
        for n, action in enumerate(actions)
    )


@pytest.fixture(scope="module")
def headless():
    """A world model of :class:`Cliff` that was trained without a termination head, as those of the releases."""
    th.manual_seed(0)
    sizes = dict(latent_dim=16, encoder_dim=16, mlp_dim=16, activation="silu")
    model, data, rng = WorldModel(WorldModelConfig(4, 1, **sizes)), cliff_data(), np.random.default_rng(0)
    optimizer = th.optim.Adam(model.parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        world_model_loss(model, data.sample(32, 1, rng)._replace(task=None)).total.backward()
        optimizer.step()
    return model


def extract(world_model, **kwargs):
    rates = dict(world_model_learning_rate=3e-3, critic_learning_rate=3e-3, tau=0.1)
    defaults = dict(offline=True, gamma=0.9, batch_size=32, replay_critic_horizon=4, seed=0, device="cpu")
    arguments = {**defaults, **rates, "dataset": cliff_data(), "policy_kwargs": dict(NETWORKS), **kwargs}
    return PWM("MlpPolicy", Cliff(), world_model=world_model, **arguments)


def test_a_frozen_world_model_without_a_termination_head_learns_one(headless, tmp_path):
    model = extract(headless).learn(250)
    # The last of three steps ends the episode. Rewards are 1, 2, 3 and gamma is 0.9.
    observations = th.as_tensor(Cliff.observations[:3])
    with th.no_grad():
        latents = model.world_model.encode(observations)
        continues = model.world_model.continuation(model.world_model.next(latents, th.zeros(3, 1)))
        values = model.critic(latents).mean(0) * model.policy.reward_scale.value
    np.testing.assert_allclose(continues, [1.0, 1.0, 0.0], atol=0.1)
    np.testing.assert_allclose(values, [5.23, 4.7, 3.0], atol=0.35)
    assert model.logger.name_to_value["train/termination_loss"] < 0.1
    # The rest of the model is the same, to the bit, and so is the model that was given.
    state = model.world_model.state_dict()
    assert all(th.equal(value, state[name]) for name, value in headless.state_dict().items())
    assert headless.termination_network is None
    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", env=Cliff(), dataset=cliff_data(), device="cpu")
    assert loaded.world_model.config.termination
    assert all(th.equal(value, state[name]) for name, value in loaded.world_model.state_dict().items())
    loaded.learn(1, reset_num_timesteps=False)  # it goes on
    assert "train/termination_loss" in loaded.logger.name_to_value


@pytest.mark.parametrize(("trained", "terminated"), [(True, True), (False, False)])
def test_the_added_head_is_trained_with_the_model_and_by_terminations_only(headless, trained, terminated):
    data = cliff_data(terminated=terminated)
    model = extract(headless, dataset=data, world_model_updates=int(trained)).learn(2)
    changed = not th.equal(headless.encoder[0].weight, model.world_model.encoder[0].weight)
    assert changed == trained
    assert model.world_model.has_new_termination_head != terminated
    assert ("train/termination_loss" in model.logger.name_to_value) == terminated


def test_a_pretrained_termination_head_is_frozen_with_the_model(headless):
    with_head = copy.deepcopy(headless)
    with_head.add_termination_head()
    th.nn.init.normal_(with_head.termination_network[-1].weight)
    model = extract(with_head).learn(2)
    assert all(th.equal(value, model.world_model.state_dict()[name]) for name, value in with_head.state_dict().items())
    assert "train/termination_loss" not in model.logger.name_to_value


def test_a_configuration_without_a_head_gets_one_and_fields_that_say_so_a_warning():
    config = WorldModelConfig(4, 1, latent_dim=16, encoder_dim=16, mlp_dim=16)
    assert not config.termination
    assert extract(config).world_model.config.termination
    model = extract(dict(latent_dim=16, encoder_dim=16, mlp_dim=16, termination=False))
    with pytest.warns(UserWarning, match="terminate, and the world model has no termination head.*leave termination="):
        model.learn(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(2)


# --- Rewards beyond the reward head ----------------------------------------------------------------------------------


def test_a_new_model_gets_bins_that_reach_the_rewards_of_its_data():
    sizes = dict(latent_dim=16, encoder_dim=16, mlp_dim=16)
    for world_model in (sizes, WorldModelConfig(4, 1, **sizes), None):
        config = extract(world_model, dataset=cliff_data(rewards=(1.0, -1e5, 3.0))).world_model.config
        assert (config.bin_low, config.bin_high) == (-12.0, 12.0)  # symexp(12) is 162,754
        config = extract(world_model, dataset=cliff_data(rewards=(1.0, -22_000.0, 3.0))).world_model.config
        assert (config.bin_low, config.bin_high) == (-10.0, 10.0)
    scalar = extract(dict(**sizes, reward_head="scalar"), dataset=cliff_data(rewards=(1.0, -1e5, 3.0)))
    assert scalar.learn(1).n_updates == 1


def test_rewards_beyond_the_reward_head_are_refused_and_the_advice_works(headless, tmp_path):
    data = cliff_data(rewards=(1.0, 2.0, 1e6))
    message = r"The data of cliff has a reward of 1e\+06, and the reward head of the world model ends at 22025\.5"
    sizes = dict(latent_dim=16, encoder_dim=16, mlp_dim=16)
    makers = [
        lambda: extract(headless, dataset=data),
        lambda: extract(dict(**sizes, bin_low=-3.0, bin_high=10.0), dataset=data),
        lambda: extract(sizes, dataset=None).add_dataset(data),
    ]
    for make_model in makers:
        with pytest.raises(ValueError, match=message) as error:
            make_model()
    advice = re.search(
        r"world_model=(dict\(.*?\))\).*divide the rewards of environment and data by (\d+)", str(error.value)
    )
    fields, divisor = eval(advice.group(1)), int(advice.group(2))
    assert divisor == 100
    extract({**sizes, **fields}, dataset=None).add_dataset(data)
    extract(headless, dataset=cliff_data(rewards=(0.01, 0.02, 1e6 / divisor)))
    # A replay buffer is refused offline; a run that goes on is warned.
    wide = extract(sizes, dataset=data)
    wide.save_replay_buffer(tmp_path / "buffer")
    narrow = extract(sizes, dataset=None)
    with pytest.raises(ValueError, match=r"The replay buffer .*buffer has a reward of 1e\+06"):
        narrow.load_replay_buffer(tmp_path / "buffer")
    assert narrow.replay_buffer.size() == 0
    narrow.offline = False
    with pytest.warns(UserWarning, match=r"The replay buffer .* has a reward of 1e\+06"):
        narrow.load_replay_buffer(tmp_path / "buffer")


@pytest.mark.parametrize("normalized", [False, True])
def test_rewards_beyond_the_reward_head_are_told_once_in_the_environment(normalized, tmp_path):
    class Scaled(Cliff):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, -50_000.0 * reward, *rest

    def make_model(env, world_model):
        venv = make_vec_env(lambda: env)
        venv = VecNormalize(venv, norm_obs=False) if normalized else venv
        return PWM("MlpPolicy", venv, world_model=world_model, policy_kwargs=dict(NETWORKS), batch_size=8, device="cpu")

    sizes = dict(latent_dim=16, encoder_dim=16, mlp_dim=16)
    model = make_model(Scaled(), sizes)
    with pytest.warns(UserWarning, match="The environment has a reward of -50000, .* ends at -22025") as caught:
        model.learn(20)
    assert len([warning for warning in caught if "reward head" in str(warning.message)]) == 1
    model.save(tmp_path / "model")
    loaded = PWM.load(tmp_path / "model", env=model.get_env(), device="cpu")
    message = str(caught[0].message)
    bins, wrapper = (
        eval(re.search(r"world_model=(dict\(.*?\))", message).group(1)),
        re.search(r"gymnasium.*\)", message),
    )
    divided = eval(wrapper.group(), dict(gymnasium=gymnasium, env=Scaled()))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*reward head")
        loaded.learn(20)
        make_model(divided, sizes).learn(20)
        make_model(Scaled(), {**sizes, **bins}).learn(20)


# --- Every entrance of data ------------------------------------------------------------------------------------------


def constructor(make_model, episodes, folder):
    return make_model(dataset=OfflineDataset.from_episodes(episodes), offline=True)


def add_dataset(make_model, episodes, folder):
    model = make_model(offline=True)
    model.add_dataset(OfflineDataset.from_episodes(episodes))
    return model


def load_replay_buffer(make_model, episodes, folder):
    other = make_model(dataset=OfflineDataset.from_episodes(episodes))
    other.save_replay_buffer(folder / "buffer.pkl")
    model = make_model(offline=True)
    model.load_replay_buffer(folder / "buffer.pkl")
    return model


def add_to_replay_buffer(make_model, episodes, folder):
    model = make_model(offline=True)
    for _, episode, _ in episodes:
        for t, reward in enumerate(episode.rewards):
            done = np.array([t == len(episode.rewards) - 1])
            pair = episode.observations[t][None], episode.observations[t + 1][None]
            infos = [{"TimeLimit.truncated": bool(done[0]) and not episode.terminated}]
            model.replay_buffer.add(*pair, episode.actions[t][None], np.array([reward]), done, infos)
    return model


def load_with_dataset(make_model, episodes, folder):
    make_model().save(folder / "model.zip")
    data = OfflineDataset.from_episodes(episodes)
    return PWM.load(folder / "model.zip", env=Cliff(), dataset=data, offline=True, device="cpu")


def offline_set_later(make_model, episodes, folder):
    model = make_model(dataset=OfflineDataset.from_episodes(episodes))
    model.offline = True
    return model


def add_episodes(make_model, episodes, folder):
    model = make_model(offline=True)
    model.replay_buffer.add_episodes([part.episode for part in episodes])
    return model


def load_for_two_environments(make_model, episodes, folder):
    make_model(dataset=OfflineDataset.from_episodes(episodes)).save_replay_buffer(folder / "buffer.pkl")
    model = make_model(env=make_vec_env(Cliff, 2), offline=True)
    model.load_replay_buffer(folder / "buffer.pkl")
    return model


def load_a_model_saved_with_its_buffer(make_model, episodes, folder):
    make_model(dataset=OfflineDataset.from_episodes(episodes)).save(folder / "model.zip", include=["replay_buffer"])
    return PWM.load(folder / "model.zip", env=Cliff(), offline=True, device="cpu")


def resume_as_rl_zoo3(make_model, episodes, folder):
    """The calls of ``rl_zoo3.train -i``: all hyperparameters but the policy's, then the replay buffer."""
    model = make_model(dataset=OfflineDataset.from_episodes(episodes))
    model.save(folder / "model.zip")
    model.save_replay_buffer(folder / "replay_buffer.pkl")
    hyperparameters = dict(learning_starts=1000, batch_size=16, train_freq=2, gradient_steps=-1, offline=True)
    model = PWM.load(
        folder / "model.zip", env=make_vec_env(Cliff), seed=1, tensorboard_log=None, verbose=0, device="cpu",
        **hyperparameters,
    )  # fmt: skip
    model.load_replay_buffer(folder / "replay_buffer.pkl", truncate_last_traj=True)
    return model


ENTRANCES = [
    constructor,
    add_dataset,
    add_episodes,
    add_to_replay_buffer,
    load_replay_buffer,
    load_for_two_environments,
    load_with_dataset,
    load_a_model_saved_with_its_buffer,
    resume_as_rl_zoo3,
    offline_set_later,
]


@pytest.mark.parametrize("terminates", [True, False])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_data_behaves_alike_whatever_way_it_came(entrance, terminates, tmp_path, monkeypatch):
    """``learn(n)`` makes n updates, and the termination head learns and is used if, and only if, episodes terminate."""
    data = cliff_data(rewards=(1.0, 1.0, 1.0), terminated=terminates).data[0]
    parts = [SourceEpisode("cliff", data.episode(number), f"episode {number}") for number in range(40)]

    def make_model(env=None, **kwargs):
        sizes = dict(latent_dim=16, encoder_dim=16, mlp_dim=16)
        return PWM(
            "MlpPolicy", env or Cliff(), seed=0, batch_size=16, world_model=sizes, replay_critic_horizon=4,
            device="cpu", policy_kwargs=dict(NETWORKS), **kwargs,
        )  # fmt: skip

    model = entrance(make_model, parts, tmp_path)
    used: list[bool] = []
    continuation = WorldModel.continuation
    monkeypatch.setattr(WorldModel, "continuation", lambda *args: used.append(True) or continuation(*args))
    before = [value.clone() for value in model.world_model.termination_network.parameters()]
    assert model.learn(30).n_updates == 30
    assert model.replay_buffer.has_terminations == terminates
    assert ("train/termination_loss" in model.logger.name_to_value) == terminates
    after = model.world_model.termination_network.parameters()
    assert any(not th.equal(b, a) for b, a in zip(before, after, strict=True)) == terminates
    assert len(used) == (30 if terminates else 0)


def test_offline_updates_are_not_put_off_for_environments_in_processes(dataset, world_model):
    """No environment steps, so nothing waits for one: each timestep makes its update before the next begins."""

    class Updates(BaseCallback):
        def _on_training_start(self):
            self.seen = []

        def _on_step(self):
            self.seen.append(self.model.n_updates)
            return True

    env = make_vec_env("Pendulum-v1", n_envs=2, vec_env_cls=SubprocVecEnv)
    model = PWM(
        "MlpPolicy", env, world_model=world_model, dataset=dataset, task="pendulum-v1", offline=True, horizon=4,
        batch_size=8, device="cpu", policy_kwargs=dict(NETWORKS),
    )  # fmt: skip
    callback = Updates()
    model.learn(6, callback=callback)
    env.close()
    assert callback.seen == [0, 1, 2, 3, 4, 5]
    assert model.n_updates == 6


def test_more_than_an_update_per_timestep_is_refused_offline(dataset, world_model):
    for gradient_steps in (0, 4):
        model = make("Pendulum-v1", world_model, dataset, gradient_steps=gradient_steps)
        with pytest.raises(ValueError, match=f"a timestep is one update, and gradient_steps={gradient_steps} asks"):
            model.learn(5)
    assert make("Pendulum-v1", world_model, dataset, gradient_steps=-1).learn(5).n_updates == 5


# --- Normalization ----------------------------------------------------------------------------------------------------


def normalized(dataset, n_envs=1, **kwargs):
    """A model of normalized observations, with data and without a pretrained world model."""
    defaults = dict(
        dataset=dataset, task="pendulum-v1", batch_size=8, horizon=3, replay_critic_horizon=4, seed=0, device="cpu",
        policy_kwargs=TINY,
    )  # fmt: skip
    return PWM("MlpPolicy", VecNormalize(make_vec_env("Pendulum-v1", n_envs, seed=0)), **{**defaults, **kwargs})


def assert_statistics(rms, observations):
    np.testing.assert_allclose(rms.mean, observations.reshape(-1, *rms.mean.shape).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rms.var, observations.reshape(-1, *rms.mean.shape).var(0), rtol=1e-4)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("once", [False, True])
def test_a_new_normalization_gets_the_statistics_of_the_data_and_keeps_them(dataset, tmp_path, n_envs, once):
    model = normalized(dataset, n_envs, offline=True, optimize_memory_usage=once)
    env = model.get_vec_normalize_env()
    env.reset()  # as users do to look at an observation
    observations = np.concatenate([dataset.task_data("pendulum-v1").episode(n).observations[:-1] for n in range(6)])
    with pytest.warns(UserWarning, match="VecNormalize") as record:
        model.learn(3)
    given, frozen = [str(one.message) for one in record if "VecNormalize" in str(one.message)]
    assert "given the statistics of the 300 observations in the replay buffer" in given
    assert "frozen (training=False): a policy that was learned offline" in frozen
    assert_statistics(env.obs_rms, observations)
    assert np.mean(np.abs(model._sample(64, 3).observations.numpy()) == env.clip_obs) < 0.01
    mean = env.obs_rms.mean.copy()
    np.testing.assert_allclose(model._last_obs, env.normalize_obs(env.get_original_obs()))

    model.offline = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(12, reset_num_timesteps=False)
    np.testing.assert_array_equal(env.obs_rms.mean, mean)

    model.save(tmp_path / "model.zip")
    env.save(tmp_path / "vecnormalize.pkl")
    fresh = VecNormalize(make_vec_env("Pendulum-v1", n_envs))
    stored = VecNormalize.load(tmp_path / "vecnormalize.pkl", make_vec_env("Pendulum-v1", n_envs))
    for again in (fresh, stored):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = PWM.load(tmp_path / "model.zip", env=again, device="cpu")
        assert not again.training
        loaded.learn(12, reset_num_timesteps=False)
        np.testing.assert_array_equal(again.obs_rms.mean, mean)


def test_trained_statistics_are_kept_and_frozen(dataset):
    """As those of a vecnormalize.pkl, or of steps before the model was made."""
    model = normalized(dataset, offline=True)
    env = model.get_vec_normalize_env()
    env.reset()
    for _ in range(20):
        env.step(np.zeros((1, 1)))
    mean, var = env.obs_rms.mean.copy(), env.obs_rms.var.copy()
    with pytest.warns(UserWarning, match="VecNormalize is frozen") as record:
        model.learn(3)
    assert len(record) == 1
    np.testing.assert_array_equal(env.obs_rms.mean, mean)
    by_hand = normalized(dataset, offline=True)
    rms = by_hand.get_vec_normalize_env().obs_rms
    rms.mean, rms.var = mean, var
    by_hand.learn(3)
    np.testing.assert_array_equal(rms.mean, mean)


def test_a_head_start_of_data_sets_statistics_that_move_on(dataset):
    model = normalized(dataset, learning_starts=0)
    env = model.get_vec_normalize_env()
    with pytest.warns(UserWarning, match="the statistics of the 300 observations") as record:
        model.learn(10)
    assert len(record) == 1
    assert env.training
    assert env.obs_rms.count == 311  # and one of the reset, and ten steps
    assert_statistics(env.obs_rms, np.concatenate([model.replay_buffer.observations[:310, 0], env.get_original_obs()]))


def test_normalization_of_some_entries_of_a_dictionary(tmp_path):
    space = gymnasium.spaces.Dict(
        near=gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32), far=gymnasium.spaces.Box(50.0, 90.0, (3,), np.float32)
    )

    def make_model(**kwargs):
        env = VecNormalize(make_vec_env(lambda: RandomEnv(space), seed=0), norm_obs_keys=["far"])
        sizes = dict(batch_size=8, replay_critic_horizon=4, buffer_size=100, device="cpu", policy_kwargs=TINY)
        return PWM("MultiInputPolicy", env, **sizes, **kwargs)

    make_model(learning_starts=60).learn(60).save_replay_buffer(tmp_path / "buffer.pkl")
    model = make_model(offline=True)
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    model.learn(3)
    env = model.get_vec_normalize_env()
    assert set(env.obs_rms) == {"far"}
    assert_statistics(env.obs_rms["far"], model.replay_buffer.observations["far"][:60])
    assert not env.training


def test_another_environment_gets_the_statistics(dataset):
    """A new VecNormalize in set_env would make other observations of what the policy knows."""
    model = normalized(dataset, offline=True).learn(3)
    mean, other = model.get_vec_normalize_env().obs_rms.mean, VecNormalize(make_vec_env("Pendulum-v1"))
    with pytest.warns(UserWarning, match="no observation yet: it was given the statistics of the one before"):
        model.set_env(other)
    model.offline = False
    model.learn(10)
    np.testing.assert_array_equal(other.obs_rms.mean, mean)
    assert not other.training


@pytest.mark.parametrize("storage", ["host", "device"])
def test_rewards_are_those_of_the_environment(dataset, world_model, storage):
    """A pretrained world model predicts rewards in the environment's units, and the replayed ones have the same."""
    env = VecNormalize(make_vec_env("Pendulum-v1"), norm_obs=False)  # norm_reward=True is its default
    model = PWM(
        "MlpPolicy", env, world_model=world_model, dataset=dataset, offline=True, device="cpu", batch_size=64, seed=0,
        replay_buffer_kwargs=dict(storage=storage), policy_kwargs=dict(NETWORKS),
    )  # fmt: skip
    rewards = model.replay_buffer.rewards[:300]
    assert rewards.min() < -10.0  # clip_reward
    model.learn(40)
    assert model._sample(512, 1).rewards.min() < -10.0
    assert env.training  # nothing of the observations is normalized
    assert float(model.policy.reward_scale.value) == pytest.approx(np.sqrt((rewards**2).mean()), rel=0.2)
    model.offline = False
    model.learn(20)
    assert model._sample(512, 1).rewards.min() < -10.0


# --- Persistence ----------------------------------------------------------------------------------------------------


def test_a_saved_model_needs_no_other_file(dataset, world_model, tmp_path):
    world_model.save(tmp_path / "wm.safetensors")
    dataset.save(tmp_path / "data")
    model = make("Cup-catch", tmp_path / "wm.safetensors", tmp_path / "data")
    model.learn(5)
    model.save(tmp_path / "model.zip")
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    (tmp_path / "wm.safetensors").unlink()
    observation = np.linspace(-1, 1, 8, dtype=np.float32)
    np.save(tmp_path / "action.npy", model.predict(observation, deterministic=True)[0])
    code = (
        "import sys, numpy as np; from sb3_pwm import PWM; folder = sys.argv[1]; "
        "model = PWM.load(folder + '/model.zip', device='cpu'); assert model.policy.task == 'cup-catch'; "
        "action = model.predict(np.linspace(-1, 1, 8, dtype=np.float32), deterministic=True)[0]; "
        "np.testing.assert_array_equal(action, np.load(folder + '/action.npy'))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)


def test_loaded_model_goes_on_with_data(dataset, world_model, tmp_path):
    model = make("Pendulum-v1", world_model, dataset)
    model.learn(5)
    model.save(tmp_path / "model.zip")
    loaded = PWM.load(tmp_path / "model.zip", env=gymnasium.make("Pendulum-v1"), device="cpu")
    with pytest.raises(ValueError, match="offline=True needs data"):
        loaded.learn(5)
    loaded.add_dataset(dataset)
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.num_timesteps == 10


def test_less_data_than_a_replayed_sequence_is_refused(dataset, world_model):
    short = OfflineDataset.from_episodes(list(episodes("pendulum-v1", "Pendulum-v1", 1, n_steps=10)))
    with pytest.raises(ValueError, match="offline=True needs data of at least 16 steps per environment, and has 10"):
        make("Pendulum-v1", world_model, short).learn(5)
    model = make("Pendulum-v1", world_model, short, bc_coef=0.0, replay_critic_coef=0.0)
    model.learn(5)
    assert model.n_updates == 5


# --- Bad input ------------------------------------------------------------------------------------------------------


def test_tasks_that_are_missing_or_ambiguous(dataset, world_model):
    with pytest.raises(ValueError, match="world model has no task 'reach'; its tasks are pendulum-v1, cup-catch"):
        make("Pendulum-v1", world_model, dataset, task="reach")
    with pytest.raises(ValueError, match=r"2 tasks, and none is named like the environment 'Pendulum-swingup'"):
        make("Pendulum-swingup", world_model, dataset)
    with pytest.raises(ValueError, match="data set has no task 'pendulum-v1'"):
        make("Pendulum-v1", world_model, dataset.select(["cup-catch"]), task="pendulum-v1")


class Secretive(gymnasium.Wrapper):
    """Its spec cannot be pickled, like that of Gymnasium's Meta-World/MT1."""

    def __init__(self, env):
        super().__init__(env)
        env.unwrapped.spec.kwargs["reward"] = lambda: 0.0


class OwnVecEnv(DummyVecEnv):
    """Vector environments that tell nothing of the single ones."""

    def get_attr(self, attr_name, indices=None):
        if attr_name != "render_mode":
            raise NotImplementedError(attr_name)
        return [None]

    def env_method(self, method_name, *method_args, indices=None, **method_kwargs):
        raise NotImplementedError(method_name)


def test_environments_that_cannot_be_asked_for_their_name(dataset, world_model):
    arguments = dict(world_model=world_model, horizon=4, device="cpu", policy_kwargs=dict(NETWORKS))
    own = OwnVecEnv([lambda: gymnasium.make("Pendulum-v1")])
    with pytest.raises(ValueError, match=r"2 tasks, and the environment does not tell its name: give task=, one of"):
        PWM("MlpPolicy", own, **arguments)
    assert PWM("MlpPolicy", own, **arguments, dataset=dataset, task="pendulum-v1").replay_buffer.size() == 300
    alone = dataset.select(["pendulum-v1"])
    assert PWM("MlpPolicy", own, dataset=alone, device="cpu", policy_kwargs=TINY).replay_buffer.size() == 300
    workers = make_vec_env("Pendulum-v1", 2, wrapper_class=Secretive, vec_env_cls=SubprocVecEnv)
    model = PWM("MlpPolicy", workers, **arguments, dataset=dataset)
    assert (model.policy.task, model.replay_buffer.size()) == ("pendulum-v1", 150)
    assert model.learn(4).num_timesteps == 4  # the workers live
    workers.close()


@pytest.fixture(scope="module")
def runs():
    """A world model and data of two tasks with the same spaces."""
    sides = [("cheetah-run", "Cheetah-run"), ("cheetah-jump", "Cheetah-jump")]
    data = OfflineDataset.from_episodes([part for side in sides for part in episodes(*side, 2, 20)])
    dimensions = dict(observation_dim=data.observation_dim, action_dim=data.action_dim)
    return WorldModel(WorldModelConfig(tasks=data.tasks, **dimensions, **SIZES)), data


def test_a_policy_stays_one_of_its_task(runs, tmp_path):
    world_model, data = runs
    model = make("Cheetah-run", world_model, data)
    model.save(tmp_path / "model")
    env, other = gymnasium.make("Cheetah-run"), gymnasium.make("Cheetah-jump")
    refused = pytest.raises(ValueError, match=r"for the task 'cheetah-run', and not for 'cheetah-jump': leave task out")
    with refused:
        PWM.load(tmp_path / "model", env=env, task="cheetah-jump")
    with pytest.warns(
        UserWarning, match="named like the task 'cheetah-jump', and the policy stays one for 'cheetah-run'"
    ):
        loaded = PWM.load(tmp_path / "model", env=other, task="cheetah-run")
    assert (loaded.task, loaded.policy.task, loaded.policy.task_index) == ("cheetah-run", "cheetah-run", 0)
    with pytest.warns(UserWarning, match="named like the task 'cheetah-jump'"):
        model.set_env(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_env(env)
        loaded = PWM.load(tmp_path / "model", env=env)
    with pytest.raises(ValueError, match="data set has no task 'cheetah-run'"):
        loaded.add_dataset(data.select(["cheetah-jump"]))
    model.task = "cheetah-jump"
    for use in (lambda: model.add_dataset(data), lambda: model.learn(5)):
        with refused:
            use()
    model.save(tmp_path / "again")  # and nothing is lost by it
    assert PWM.load(tmp_path / "again").task == "cheetah-run"
    # The advice
    jump = make("Cheetah-jump", model.world_model, data, task="cheetah-jump").learn(3)
    assert (jump.task, jump.policy.task, jump.policy.task_index) == ("cheetah-jump", "cheetah-jump", 1)


def test_the_task_can_be_given_in_two_places(runs):
    world_model, data = runs
    for given in (dict(task="cheetah-jump"), dict(policy_kwargs=dict(NETWORKS, task="cheetah-jump"))):
        model = make("Cheetah-run", world_model, data, **given)
        assert (model.task, model.policy.task, model.policy.task_index) == ("cheetah-jump", "cheetah-jump", 1)
        jumps = data.task_data("cheetah-jump").episode(0).observations
        np.testing.assert_array_equal(model.replay_buffer.observations[:20, 0], jumps[:-1])
    with pytest.raises(ValueError, match=r"task='cheetah-run' and policy_kwargs=dict\(task='cheetah-jump'\) are two"):
        make("Cheetah-run", world_model, data, task="cheetah-run", **given)
    # A new world model of several tasks
    new = PWM("MlpPolicy", gymnasium.make("Cheetah-jump"), world_model=world_model.config, device="cpu")
    assert (new.policy.task_index, new.pretrained) == (1, False)
    assert new.predict(np.zeros(17, np.float32))[0].shape == (6,)
    with pytest.raises(
        ValueError, match="none is named like the environment 'Pendulum-v1': give task=, one of cheetah-run"
    ):
        PWM("MlpPolicy", "Pendulum-v1", world_model=dict(tasks=data.tasks))


def test_shapes_that_do_not_fit(dataset, world_model):
    with pytest.raises(ValueError, match="world model has observation_dim 8, too small for this environment's 24"):
        make("Walker-walk", world_model, None, task="cup-catch")
    with pytest.raises(ValueError, match="data has observations of 8 and actions of 2 numbers, the environment of 3"):
        make("Pendulum-v1", world_model, dataset, task="cup-catch")
    with pytest.raises(ValueError, match="300 steps, the replay buffer room for 100: raise buffer_size"):
        make("Pendulum-v1", world_model, dataset, buffer_size=100)


def test_missing_data_and_normalized_observations(world_model, tmp_path):
    with pytest.raises(ValueError, match=r"offline=True needs data of at least 16 steps.*: give dataset="):
        make("Pendulum-v1", world_model, None).learn(10)
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    with pytest.raises(ValueError, match=r"leave VecNormalize out, or give it norm_obs=False"):
        PWM("MlpPolicy", env, world_model=world_model)
    model = PWM("MlpPolicy", VecNormalize(env.venv, norm_obs=False), world_model=world_model)  # the advice
    with pytest.raises(ValueError, match="leave VecNormalize out"):
        model.set_env(env)
    assert not model.get_vec_normalize_env().norm_obs
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="leave VecNormalize out"):
        PWM.load(tmp_path / "model", env=env)
    PWM.load(tmp_path / "model", env=env.venv)
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors"):
        make("Pendulum-v1", tmp_path / "no.safetensors", None)
    with pytest.raises(ValueError, match=r"bc_coef .* must be a number of at least 0, got -1\.0"):
        make("Pendulum-v1", world_model, None, bc_coef=-1.0)
    with pytest.raises(ValueError, match=r"bc_temperature must be a number above 0, got 0\.0"):
        make("Pendulum-v1", world_model, None, bc_temperature=0.0)


# --- What values are made of -----------------------------------------------------------------------------------------


def two_behaviors(n_episodes=60, length=6, seed=0):
    """Half of the episodes earn 1 at every step, half nothing; nothing in the observations or actions tells which."""
    rng = np.random.default_rng(seed)
    for number in range(n_episodes):
        observations = rng.uniform(-1, 1, (length + 1, 3)).astype(np.float32)
        actions = rng.uniform(-1, 1, (length, 1)).astype(np.float32)
        rewards = np.full(length, float(number % 2), np.float32)
        yield SourceEpisode("task", Episode(observations, actions, rewards, True), f"episode {number}")


@pytest.mark.parametrize("expectile", [0.5, 0.8])
def test_values_follow_the_better_of_two_behaviors(expectile):
    """With gamma 0 a state is worth 0 or 1, equally often: the expectile of these two is the expectile itself."""
    data = OfflineDataset.from_episodes(two_behaviors())
    env = DummyVecEnv([lambda: RandomEnv(gymnasium.spaces.Box(-1, 1, (3,), np.float32), BOX, 6)])
    model = PWM(
        "MlpPolicy",
        env,
        dataset=data,
        offline=True,
        gamma=0.0,
        seed=0,
        batch_size=64,
        horizon=2,
        replay_critic_horizon=4,
        replay_critic_expectile=expectile,
        discounted_fraction=0.0,
        critic_learning_rate=3e-3,
        device="cpu",
        policy_kwargs=TINY,
    ).learn(250)
    states = th.as_tensor(data.data[0].observations)
    values = model.critic(model.policy.encode(states)).mean() * model.policy.reward_scale.value
    assert values.item() == pytest.approx(expectile, abs=0.1)


def test_offline_critics_do_not_depend_on_what_is_imagined(dataset, world_model, monkeypatch):
    """Their targets are those of the data, and imagined targets are not even computed."""
    calls = []
    monkeypatch.setattr("sb3_pwm.pwm.losses.imagined_targets", lambda *args: calls.append(args))
    make("Pendulum-v1", world_model, dataset).learn(2)
    assert not calls
    with pytest.raises(ValueError, match="critics learn from nothing if imagined_critic_coef and replay_critic_coef"):
        make("Pendulum-v1", world_model, dataset, imagined_critic_coef=0.0, replay_critic_coef=0.0)
    with pytest.raises(ValueError, match="critics learn from nothing if imagined_critic_coef and replay_critic_coef"):
        make("Pendulum-v1", None, None, offline=False, imagined_critic_coef=0.0)  # online, "auto" replays nothing
