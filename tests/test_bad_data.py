"""Data that a policy cannot be learned from, or that is not like the environment, is told at the door."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from random_env import TINY, RandomEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pwm import PWM, OfflineDataset, WorldModel, WorldModelConfig
from sb3_pwm.common.outliers import summarize
from sb3_pwm.data.types import Episode, SourceEpisode
from sb3_pwm.pretrain import PretrainConfig, pretrain
from sb3_pwm.pwm.observation_checks import ObservationWatch

ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)
SIZES = dict(latent_dim=8, encoder_dim=8, mlp_dim=8)


def data(n_episodes=20, length=20, reward=None, change=lambda values: values, terminated=False, task="task"):
    """Episodes of random observations and rewards, or of one reward. ``change`` is applied to all observations."""
    rng = np.random.default_rng(0)
    observations = change(rng.normal(size=(n_episodes, length + 1, 3)).astype(np.float32))
    parts = []
    for number in range(n_episodes):
        rewards = rng.normal(size=length) if reward is None else np.full(length, reward)
        actions = rng.uniform(-1, 1, (length, 1))
        episode = Episode(observations[number], actions, rewards, terminated)
        parts.append(SourceEpisode(task, episode, f"episode {number}"))
    return OfflineDataset.from_episodes(parts)


def box_env(scale=1.0):
    return RandomEnv(spaces.Box(-scale, scale, (3,), np.float32), ACTIONS, 8)


def make(dataset, env=None, **kwargs):
    defaults = dict(batch_size=8, replay_critic_horizon=4, seed=0, device="cpu", policy_kwargs=dict(TINY), offline=True)
    return PWM("MlpPolicy", env or box_env(), dataset=dataset, **{**defaults, **kwargs})


def pretrained(dataset, tmp_path, **config):
    tasks = {} if dataset.tasks == ("task",) else dict(tasks=dataset.tasks, task_dim=2)
    config = PretrainConfig(**{**dict(steps=1, batch_size=4, horizon=3), **config})
    model = WorldModelConfig(3, 1, **tasks, **SIZES)
    return pretrain(dataset, model, tmp_path / "wm.safetensors", config, progress_bar=False, device="cpu")


def warned(function):
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        function()
    return [str(each.message) for each in record]


# --- Observations that do not vary, and outliers ---------------------------------------------------------------------


@pytest.mark.parametrize("ready", [False, True])
def test_a_value_that_never_varies_in_the_data(ready, tmp_path):
    def constant(values):
        values[..., 1] = 3.0
        return values

    dataset = data(change=constant)
    given = dict(world_model=pretrained(dataset, tmp_path), policy_kwargs=dict(net_arch=[8])) if ready else {}
    model = make(dataset, **given)
    assert warned(lambda: model.learn(5)) == []
    assert model.world_model.statistics.std[0, 1] == 1.0
    observations = np.array([[0.1, x, -0.2] for x in (3.0, 3.1, 13.0, 1e6)], np.float32)
    known, near, ten_away, far = model.predict(observations, deterministic=True)[0]
    assert abs(near - known) < 0.1  # a bit different in the environment
    assert far == ten_away  # it is clipped


def with_outliers(values):
    values[[2, 5], [3, 7], 1] = 1e6
    return values


def test_outliers_are_told_and_left_out_of_the_statistics(tmp_path):
    message = (
        r"The data.* has outliers in its observations: dimension 1 in \d of \d+ rows \(up to 1e\+06, the others lie"
    )
    dataset = data(n_episodes=60, change=with_outliers)
    with pytest.warns(UserWarning, match=message):
        world_model = pretrained(dataset, tmp_path, validation_fraction=0.01)
    np.testing.assert_allclose(world_model.statistics.std[0], 1.0, atol=0.1)
    model = make(dataset)
    with pytest.warns(UserWarning, match=message):
        model.learn(3)
    model.offline = False
    model.learn(20)  # running statistics would count the outliers
    np.testing.assert_allclose(model.world_model.statistics.std[0], 1.0, atol=0.1)
    with pytest.warns(UserWarning, match=message):
        make(dataset, offline=False)
    env = VecNormalize(DummyVecEnv([box_env]))
    behind = make(dataset, env)
    with pytest.warns(UserWarning, match=r"The data has outliers in its observations: dimension 1 in 2 of 1200 rows"):
        behind.learn(3)  # VecNormalize makes the others nearly 0, and the world model tells them apart again
    seen = behind._sample(64, 1).observations[0]
    assert behind.world_model.statistics(seen).std(0).min() > 0.5


def test_what_is_an_outlier():
    rng = np.random.default_rng(0)
    n = 5_000
    values = np.stack(
        [
            np.where(np.arange(n) == 7, -1e6, rng.normal(5.0, 2.0, n)),  # an outlier
            (rng.random(n) < 0.002).astype(float),  # a rare event
            rng.standard_t(3, n),  # heavy tails
            np.where(rng.random(n) < 0.002, 300.0, rng.normal(size=n)),  # blows
            np.where(rng.random(n) < 0.3, 1e6, rng.normal(size=n)),  # two kinds of values
            np.where(np.arange(n) == 7, 0.5, 1e-9 * rng.normal(size=n)),  # rounding
        ],
        axis=1,
    ).astype(np.float32)
    summary = summarize(values)
    assert summary.n_outliers.tolist() == [1, 0, 0, 0, 0, 0]
    others = np.delete(values[:, 0].astype(np.float64), 7)
    assert summary.mean[0] == pytest.approx(others.mean(), rel=1e-6)
    assert summary.std[0] == pytest.approx(others.std(), rel=1e-6)
    assert (summary.low[0], summary.high[0], summary.largest[0]) == (others.min(), others.max(), -1e6)
    np.testing.assert_allclose(summary.std[1:], values[:, 1:].astype(np.float64).std(0))


def test_a_task_that_was_added_gets_its_statistics_from_data_that_comes_later(tmp_path):
    world_model = pretrained(data(task="old"), tmp_path)
    world_model.add_task("new", like="old")
    new = data(task="new", change=lambda values: 30.0 + 5.0 * values)
    networks = dict(policy_kwargs=dict(net_arch=[8]), world_model=world_model, task="new")

    def from_buffer(model):
        make(new, **networks, offline=False).save_replay_buffer(tmp_path / "buffer")
        model.load_replay_buffer(tmp_path / "buffer")

    for offline in (True, False):
        for give in (lambda model: model.add_dataset(new), from_buffer):
            model = make(None, **networks, offline=offline)
            give(model)
            model.learn(1)
            statistics = model.world_model.statistics
            np.testing.assert_allclose(statistics.mean[1], 30.0, atol=1.0)
            np.testing.assert_allclose(statistics.std[1], 5.0, atol=0.5)
            assert th.equal(statistics.mean[0], world_model.statistics.mean[0])
            assert model.statistics_are_fixed


# --- An environment that is not like the data ------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_an_environment_of_another_scale_is_told_once(scale):
    model = make(data(change=lambda values: 0.5 * values), box_env(scale)).learn(2)

    def evaluate():
        for _ in range(2):
            evaluate_policy(model, DummyVecEnv([lambda: box_env(scale)]), n_eval_episodes=130, warn=False)

    message = "observations of the environment are not like those of the data: .* dimension 0 is .* in the data, and"
    with pytest.warns(UserWarning, match=message) as record:
        evaluate()
    assert len(record) == 1
    assert ("3 of 3 dimensions are far" if scale > 1 else "vary far less") in str(record[0].message)
    again = make(data(change=lambda values: 0.5 * values), box_env(scale)).learn(2)
    again.offline, again.gradient_steps = False, 0  # steps without updates
    messages = warned(lambda: again.learn(1_000 if scale < 1 else 120))  # in online learning too
    assert len(messages) == 1, messages


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v5", "Pendulum-v1", "Reacher-easy", "Cartpole-balance"])
def test_an_environment_that_is_acted_in_otherwise_is_no_reason_to_warn(env_id):
    env = gymnasium.make(env_id)
    low, high = env.action_space.low, env.action_space.high

    def act(action_of, seed):
        rng, seen = np.random.default_rng(seed), [env.reset(seed=seed)[0]]
        for step in range(1_000):
            observation, _, terminated, truncated, _ = env.step(action_of(rng, step))
            seen.append(env.reset()[0] if terminated or truncated else observation)
        return np.array(seen, np.float32)

    noise = act(lambda rng, _: rng.uniform(low, high), 0)
    for action_of in (lambda *_: np.zeros_like(low), lambda rng, step: high if step // 20 % 2 else low):
        watch = ObservationWatch(summarize(noise), env.observation_space)
        others = act(action_of, 1)
        assert warned(lambda watch=watch, others=others: [watch.look(other) for other in others]) == []
        assert watch.done


# --- Rewards and episodes that teach nothing -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "terminated", "told"), [(0.0, False, True), (0.0, True, True), (1.0, False, True), (1.0, True, False)]
)
def test_rewards_that_are_all_the_same(reward, terminated, told, tmp_path):
    dataset = data(reward=reward, terminated=terminated)
    for door in (lambda: make(dataset).learn(1), lambda: pretrained(dataset, tmp_path)):
        messages = warned(door)
        assert len(messages) == int(told)
        assert all(
            "there is nothing" in message and "to learn from" in message and "rewards" in message
            for message in messages
        )


def test_the_tasks_without_a_reward_are_named(tmp_path):
    parts = [data(task="a"), data(task="b", reward=0.0), data(task="c", reward=1.0)]
    with pytest.warns(UserWarning, match=r"All rewards of b, c are the same \(0, 1\)"):
        pretrained(OfflineDataset([part.data[0] for part in parts]), tmp_path)


def test_an_environment_without_a_reward_is_told_at_the_end_of_learning():
    class Silent(RandomEnv):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, 0.0, *rest

    for env, n_warnings in ((Silent(action_space=ACTIONS), 1), (RandomEnv(action_space=ACTIONS), 0)):
        model = make(None, env, offline=False, learning_starts=20)
        messages = warned(lambda model=model: model.learn(30))
        assert len(messages) == n_warnings
        assert all("All rewards so far were the same" in message for message in messages)


def test_one_episode(tmp_path):
    assert make(data(1)).learn(2).n_updates == 2
    with pytest.raises(ValueError, match=r"a single episode, which cannot be split .*: give at least two episodes of"):
        pretrained(data(1), tmp_path)


@pytest.mark.parametrize("terminated", [False, True])
def test_episodes_that_are_all_shorter_than_the_horizon(terminated, tmp_path):
    """A termination is all there is to know. A truncation hides what would have followed."""
    dataset = data(60, length=1, terminated=terminated)
    message = r"last at most 1 of the 3 steps of horizon: .* lower horizon to 1\."
    for door in (lambda: make(dataset).learn(2), lambda: pretrained(dataset, tmp_path)):
        messages = warned(door)
        assert len(messages) == int(not terminated)
        if messages:
            with pytest.warns(UserWarning, match=message):
                warnings.warn(messages[0])
    assert warned(lambda: make(dataset, horizon=1).learn(2)) == []  # the advice


def test_episodes_of_one_step_without_the_observation_after_it():
    ends = np.array([0, 0, 1, 1, 1, 0, 1.0])  # episodes of 3, 1, 1 and 2 steps
    arrays = np.arange(7.0)[:, None], np.zeros((7, 1)), np.ones(7), np.zeros(7), ends
    with pytest.warns(UserWarning, match="2 of 4 episodes of task have a single step, and are left out, .* give next_"):
        dataset = OfflineDataset.from_arrays(*arrays)
    assert dataset.data[0].lengths.tolist() == [2, 1]
    assert warned(lambda: OfflineDataset.from_arrays(*arrays, np.arange(1.0, 8.0)[:, None])) == []


def test_a_reward_of_every_step():
    task = data(3, 4, reward=2.0).data[0]
    assert task.constant_reward == 2.0  # the last row of an episode has no step, and holds a zero
    assert task.subset(np.array([1, 2])).constant_reward == 2.0
    assert data(3, 4).data[0].constant_reward is None


def test_a_world_model_that_sees_observations_as_they_are(tmp_path):
    """It is given no statistics of the data, and outliers are told all the same."""
    world_model = WorldModel(WorldModelConfig(3, 1, normalize_observations=False, **SIZES))
    model = make(data(60, change=with_outliers), world_model=world_model, policy_kwargs=dict(net_arch=[8]))
    with pytest.warns(UserWarning, match="outliers in its observations: dimension 1 in 2 of 1200 rows"):
        model.learn(1)
    assert model.world_model.statistics is None
