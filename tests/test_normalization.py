"""Observations are normalized in the world model, by statistics that it keeps."""

import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from random_env import TINY, RandomEnv

from sb3_pwm import PWM, OfflineDataset, WorldModel, WorldModelConfig
from sb3_pwm.common.statistics import ObservationStatistics
from sb3_pwm.data.types import Episode, SourceEpisode
from sb3_pwm.pretrain import PretrainConfig, pretrain
from sb3_pwm.world_model.checkpoint import read_checkpoint, write_checkpoint
from sb3_pwm.world_model.normalization import fit_statistics

SIZES = dict(latent_dim=8, encoder_dim=8, mlp_dim=8)


def data(task, scale, shift, n_episodes=6, length=20, size=3, seed=0):
    """A task whose observations are of this scale and shift; the last one is constant."""
    rng = np.random.default_rng(seed)
    n = n_episodes * length
    observations = (shift + scale * rng.normal(size=(n, size))).astype(np.float32)
    observations[:, -1] = shift
    ends = np.arange(n) % length == length - 1
    following = np.roll(observations, -1, axis=0)
    zeros = np.zeros(n)
    return OfflineDataset.from_arrays(
        observations, rng.uniform(-1, 1, (n, 2)), rng.normal(size=n), zeros, ends, following, task
    )


def both(*parts):
    return OfflineDataset([part.data[0] for part in parts])


def trained(dataset, file, model=None, **run):
    """A world model that was pretrained for some updates: a new one of all tasks, or a given one."""
    if model is None:
        tasks = dict(tasks=dataset.tasks, task_dim=4) if dataset.tasks != ("task",) else {}
        model = WorldModelConfig(observation_dim=3, action_dim=2, **tasks, **SIZES)
    run = PretrainConfig(**{**dict(steps=1, batch_size=4, horizon=2), **run})
    return pretrain(dataset, model, file, run, progress_bar=False, device="cpu")


def test_running_statistics_are_those_of_all_observations():
    values = np.random.default_rng(0).normal(3.0, [0.1, 20.0, 1.0], size=(500, 3)).astype(np.float32)
    statistics = ObservationStatistics(2, 3)
    for part in np.split(values, [7, 8, 200]):
        statistics.update(th.from_numpy(part), row=1)
    np.testing.assert_allclose(statistics.mean[1], values.mean(0), rtol=1e-4)
    np.testing.assert_allclose(statistics.std[1], values.std(0), rtol=1e-4)
    assert statistics.count.tolist() == [0.0, 500.0]
    expected = (values - values.mean(0)) / values.std(0)
    np.testing.assert_allclose(statistics(th.from_numpy(values), 1), expected, atol=2e-3)
    np.testing.assert_array_equal(statistics(th.from_numpy(values[:5])), values[:5])  # nothing was counted in row 0


def test_old_observations_are_forgotten():
    statistics = ObservationStatistics(1, 1, max_count=100.0)
    for value in (0.0, 5.0):
        for _ in range(100):
            statistics.update(value + th.randn(10, 1))
    assert statistics.mean.item() == pytest.approx(5.0, abs=0.5)
    assert statistics.std.item() == pytest.approx(1.0, abs=0.4)


def test_constant_values_and_outliers():
    statistics = ObservationStatistics(1, 3)
    values = th.randn(1000, 3) * th.tensor([1.0, 0.0, 1.0]) + th.tensor([0.0, 1e4, 0.0])
    statistics.update(values)
    normalized = statistics(th.tensor([0.0, 1e4 + 0.5, 1e6]))
    assert normalized[1].item() == pytest.approx(0.5, abs=0.01)  # its scale is kept
    assert normalized[2].item() == 10.0


def test_running_statistics_of_a_value_that_does_not_vary_at_first():
    statistics = ObservationStatistics(1, 2, max_count=1e6)
    value = th.tensor([[3.0, 1e4]])
    for _ in range(200):
        statistics.update(value.expand(5, 2))
    assert statistics.std.tolist() == [[1.0, 1.0]]  # the scale is kept, and nothing is divided by almost zero
    further = th.tensor([[3.0, 1e4], [3.5, 1e4 + 50.0]]).repeat(500, 1)
    statistics.update(further)
    everything = th.cat([value.expand(1000, 2), further])
    np.testing.assert_allclose(statistics.mean[0], everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics.std[0], everything.std(0, correction=0), rtol=1e-3)


def test_running_statistics_of_a_value_that_varies_by_exactly_one():
    statistics = ObservationStatistics(1, 1)
    signs = th.tensor([[1.0], [-1.0]])
    statistics.update(signs)
    assert statistics.std.item() == pytest.approx(1.0)
    statistics.update(th.zeros(2, 1))  # of 1, -1, 0, 0
    assert statistics.std.item() == pytest.approx(0.5**0.5)


def test_a_shared_scale_is_the_root_mean_square_of_the_spreads():
    statistics = ObservationStatistics(1, 3, shared_scale=True)
    values = th.tensor([[0.0, 2.0, 5.0], [6.0, 2.0, 13.0]])  # standard deviations 3, 0 and 4
    assert th.equal(statistics(values), values)  # nothing was counted
    statistics.update(values)
    expected = th.tensor([[-3.0, 0.0, -4.0], [3.0, 0.0, 4.0]]) / (25.0 / 3.0) ** 0.5
    th.testing.assert_close(statistics(values), expected)
    statistics = ObservationStatistics(1, 2, shared_scale=True)
    statistics.update(th.ones(4, 2))  # nothing varies: the scale is kept
    th.testing.assert_close(statistics(th.full((1, 2), 1.5)), th.full((1, 2), 0.5))


def test_a_model_without_statistics_does_not_clip():
    for normalizes in (True, False):
        model = WorldModel(WorldModelConfig(3, 1, normalize_observations=normalizes, **SIZES))
        observations = th.tensor([[20.0, -3.0, 500.0], [2.0, -30.0, 5.0]])
        assert th.equal(model.encode(observations), model.encoder(observations))
    tasks = WorldModel(WorldModelConfig(3, 1, tasks=("a", "b"), task_dim=2, **SIZES))
    tasks.statistics.set(th.zeros(3), th.full((3,), 2.0), 5.0, row=1)
    rows = th.tensor([0, 1])
    expected = th.stack([observations[0], (observations[1] / 2.0).clamp(-10, 10)])
    for _ in range(2):
        assert th.equal(tasks.statistics(observations, rows), expected)
        state, tasks = tasks.state_dict(), WorldModel(tasks.config)
        tasks.load_state_dict(state)


def test_statistics_are_those_of_all_behaviors_that_take_turns(monkeypatch):
    """Six behaviors in turn, of which a sixth of the episodes are read: not those of one behavior alone."""
    behaviors = np.arange(600) % 6
    parts = [
        SourceEpisode(
            "task",
            Episode(np.full((6, 1), mean, np.float32), np.zeros((5, 1), np.float32), np.ones(5, np.float32), False),
            "",
        )
        for mean in behaviors
    ]
    monkeypatch.setattr("sb3_pwm.world_model.normalization.MAX_ROWS", 600)
    model = WorldModel(WorldModelConfig(1, 1, **SIZES))
    fit_statistics(model, OfflineDataset.from_episodes(parts), new=True)
    assert model.statistics.count.item() == 600
    assert model.statistics.mean.item() == pytest.approx(2.5, abs=0.5)  # of 100 episodes with a spread of 1.7
    assert model.statistics.std.item() == pytest.approx(1.71, abs=0.2)


def test_each_task_has_its_own_statistics(tmp_path):
    dataset = both(data("small", 0.1, 0.0, size=2), data("large", 50.0, 100.0))
    model = trained(dataset, tmp_path / "wm.safetensors", steps=2)
    for task in dataset.tasks:
        part = dataset.task_data(task)
        z = model.statistics(
            th.from_numpy(np.pad(part.observations, ((0, 0), (0, 3 - part.observations.shape[1])))),
            model.task_index(task),
        )
        varies = part.observations.std(0) > 0
        np.testing.assert_allclose(z.mean(0), 0.0, atol=0.2)  # a twentieth of the episodes is held out
        np.testing.assert_allclose(z.std(0)[: len(varies)][varies], 1.0, atol=0.2)
    loaded = WorldModel.load(tmp_path / "wm.safetensors")
    observation = th.tensor([90.0, 170.0, 100.0])
    assert th.equal(loaded.encode(observation, "large"), model.encode(observation, "large"))
    assert not th.equal(loaded.encode(observation, "large"), loaded.encode(observation, "small"))


def test_scale_and_shift_of_the_observations_do_not_matter(tmp_path):
    losses = []
    for scale, shift in ((1.0, 0.0), (30.0, -7.0)):
        dataset = data("task", scale, shift)
        model = trained(dataset, tmp_path / f"{scale}.safetensors", steps=5, batch_size=8)
        losses.append(model.encode(th.from_numpy(dataset.data[0].observations)))
    th.testing.assert_close(*losses, atol=1e-4, rtol=1e-3)


def test_further_pretraining_keeps_the_statistics(tmp_path):
    model = trained(data("a", 2.0, 1.0), tmp_path / "a.safetensors")
    model.add_task("b", like="a")
    assert model.tasks_without_statistics == ["b"]
    assert th.equal(model.statistics.std[0], model.statistics.std[1])
    before = model.statistics.mean[0].clone()
    model = trained(both(data("a", 9.0, 9.0), data("b", 3.0, -5.0)), tmp_path / "b.safetensors", model)
    assert th.equal(model.statistics.mean[0], before)
    np.testing.assert_allclose(model.statistics.mean[1], -5.0, atol=1.0)


def box_env(low=-1.0, high=1.0, size=3):
    return RandomEnv(spaces.Box(low, high, (size,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32), 8)


def test_online_statistics_follow_the_replay_buffer(tmp_path):
    env = box_env(low=-40.0, high=60.0)
    model = PWM("MlpPolicy", env, learning_starts=20, seed=0, policy_kwargs=TINY).learn(150)
    statistics = model.world_model.statistics
    stored = model.replay_buffer.observations[:150, 0]
    np.testing.assert_allclose(statistics.mean[0], stored.mean(0), atol=8.0)
    np.testing.assert_allclose(statistics.std[0], stored.std(0), rtol=0.3)
    model.save(tmp_path / "model.zip")
    loaded = PWM.load(tmp_path / "model.zip")
    assert th.equal(loaded.world_model.statistics.std, statistics.std)
    off = PWM(
        "MlpPolicy", env, world_model=dict(latent_dim=8, normalize_observations=False), policy_kwargs=dict(net_arch=[8])
    )
    assert off.world_model.statistics is None


def test_statistics_of_a_pretrained_model_stay(tmp_path):
    dataset = data("task", 2.0, 1.0)
    world_model = trained(dataset, tmp_path / "wm.safetensors")
    env = RandomEnv(spaces.Box(-9, 9, (3,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32), 8)
    model = PWM(
        "MlpPolicy",
        env,
        world_model=world_model,
        dataset=dataset,
        offline=True,
        world_model_updates=1,
        replay_critic_horizon=4,
        policy_kwargs=dict(net_arch=[8]),
    ).learn(3)
    model.offline = False
    model.learn(10)
    assert th.equal(model.world_model.statistics.mean, world_model.statistics.mean)
    assert not th.equal(model.world_model.encoder[0].weight, world_model.encoder[0].weight)


def test_a_model_from_before_sees_observations_as_they_are(tmp_path):
    model = WorldModel(WorldModelConfig(observation_dim=3, action_dim=1, normalize_observations=False, **SIZES))
    model.save(tmp_path / "new.safetensors")
    config, state = read_checkpoint(tmp_path / "new.safetensors")
    del config["normalize_observations"]
    write_checkpoint(tmp_path / "old.safetensors", config, state)
    with pytest.warns(UserWarning, match="before world models normalized"):
        old = WorldModel.load(tmp_path / "old.safetensors")
    observation = th.tensor([1.0, 200.0, -3.0])
    assert th.equal(old.encode(observation), model.encode(observation))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WorldModel.load(tmp_path / "new.safetensors")
