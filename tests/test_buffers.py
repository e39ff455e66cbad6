"""The sequence replay buffer against brute force."""

import itertools
import pickle
import warnings

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pwm import OfflineDataset, SequenceReplayBuffer
from sb3_pwm.common.version import FILE_FORMAT, FileFormatError
from sb3_pwm.data import replay_buffer
from sb3_pwm.data.episode_table import EpisodeTable
from sb3_pwm.data.types import Episode, SequenceSampling

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ENTRIES = spaces.Dict(
    number=spaces.Box(-np.inf, np.inf, (2,), np.float32), image=spaces.Box(0, 255, (1, 2, 2), np.uint8)
)
ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)
N_SAMPLES = 1500  # there are at most 120 different sequences, so that each is sampled


def observation_of(numbers, space):
    """Observations of the space that hold these numbers ``(n_envs, 2)``: an id, and the environment."""
    numbers = np.asarray(numbers, np.float32)
    if space is OBSERVATIONS:
        return numbers
    image = np.repeat(numbers[:, 0] % 251, 4).reshape(-1, 1, 2, 2).astype(np.uint8)
    return {"number": numbers, "image": image}


def numbers_of(observations):
    """Numbers ``(..., 2)`` in observations of :func:`observation_of`. Both entries of a Dict must agree on the id."""
    if isinstance(observations, th.Tensor):
        return observations
    ids = observations["number"][..., 0] % 251
    assert (observations["image"].flatten(-3) == ids.unsqueeze(-1)).all()
    return observations["number"]


def fill(buffer, n_steps, rng, end_probability=0.15, first_id=0):
    """
    Add random episodes, and return one array ``(n_envs, n_steps)`` per quantity.

    Every observation has its own id, terminal observations too, so that a mix-up of episodes cannot pass.
    """
    n_envs, ids = buffer.n_envs, itertools.count(first_id + 1)
    envs = np.arange(n_envs)

    def new_ids():
        return np.array([next(ids) for _ in range(n_envs)])

    log = []
    current = new_ids()
    for _ in range(n_steps):
        following, done = new_ids(), rng.random(n_envs) < end_probability
        step = dict(
            obs=current,
            next_obs=following,
            actions=rng.uniform(-1, 1, n_envs).astype(np.float32),
            rewards=rng.normal(size=n_envs).astype(np.float32),
            dones=done,
            truncated=done & (rng.random(n_envs) < 0.5),
        )
        buffer.add(
            observation_of(np.stack([current, envs], -1), buffer.observation_space),
            observation_of(np.stack([following, envs], -1), buffer.observation_space),
            step["actions"][:, None],
            step["rewards"],
            done,
            [{"TimeLimit.truncated": bool(truncated)} for truncated in step["truncated"]],
        )
        log.append(step)
        current = np.where(done, new_ids(), following)
    return {name: np.stack([step[name] for step in log], axis=1) for name in log[0]}


def assert_steps_are(log, envs, steps, observations, actions, rewards, terminations, counts):
    """Sampled sequences ``(H, B)`` have the values of these steps of the log, wherever ``counts`` is true."""
    ids = observations.numpy()[..., 0]
    row = {name: values[envs, steps] for name, values in log.items()}
    np.testing.assert_array_equal(np.where(counts, ids[:-1], 0), np.where(counts, row["obs"], 0))
    np.testing.assert_array_equal(np.where(counts, ids[1:], 0), np.where(counts, row["next_obs"], 0))
    np.testing.assert_allclose(actions.numpy()[counts][:, 0], row["actions"][counts])
    np.testing.assert_allclose(rewards.numpy()[counts], row["rewards"][counts])
    terminated = row["dones"] & ~row["truncated"]
    np.testing.assert_array_equal(terminations.numpy()[counts], terminated[counts])


def steps_of(log, numbers):
    """Environment and index of the step ``(B,)`` that each id and environment ``(B, 2)`` belongs to."""
    ids, envs = numbers.numpy()[:, 0], numbers.numpy()[:, 1].astype(int)
    matches = log["obs"][envs] == ids[:, None]
    assert (matches.sum(-1) == 1).all()
    return envs, matches.argmax(-1)


def assert_samples_are(log, oldest, buffer, horizon):
    """Every sequence is one of the log's, and every one of the log's from the oldest step on is sampled."""
    n_envs, n_steps = log["obs"].shape
    batch = buffer.sample_sequences(N_SAMPLES, horizon)
    numbers = numbers_of(batch.observations)
    assert numbers.shape == (horizon + 1, N_SAMPLES, 2)
    assert batch.actions.shape == (horizon, N_SAMPLES, 1)
    envs, starts = steps_of(log, numbers[0])
    # A sequence that left the buffer or crossed the write position would start elsewhere.
    expected = {(env, start) for env in range(n_envs) for start in range(oldest, n_steps - horizon + 1)}
    assert set(zip(envs.tolist(), starts.tolist(), strict=True)) == expected
    steps = starts + np.arange(horizon)[:, None]
    ended = np.cumsum(log["dones"][envs, steps], axis=0) - log["dones"][envs, steps]  # before the step
    counts = ended == 0
    np.testing.assert_array_equal(batch.mask.numpy(), counts)
    assert_steps_are(log, envs, steps, numbers, batch.actions, batch.rewards, batch.terminations, counts)


SPACES = pytest.mark.parametrize("space", [OBSERVATIONS, ENTRIES], ids=["Box", "Dict"])
ONCE = pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_steps", [12, 40, 57, 80])  # not full, just full, wrapped around in the middle, twice over
@SPACES
@ONCE
def test_sequences_against_brute_force(n_envs, n_steps, space, once):
    capacity = 40
    buffer = SequenceReplayBuffer(
        capacity * n_envs, space, ACTIONS, device="cpu", n_envs=n_envs, optimize_memory_usage=once
    )
    log = fill(buffer, n_steps, np.random.default_rng(n_steps))
    oldest = max(n_steps - capacity, 0)
    if once and n_steps >= capacity:
        oldest += 1  # the newest observation has overwritten the oldest one
    for horizon in (1, 4, 7):
        assert_samples_are(log, oldest, buffer, horizon)
    assert_samples_are(log, oldest, pickle.loads(pickle.dumps(buffer)), 4)


@SPACES
@ONCE
@pytest.mark.parametrize("n_steps", [25, 40, 53])
def test_single_transitions_are_those_of_the_steps(space, once, n_steps):
    buffer = SequenceReplayBuffer(80, space, ACTIONS, device="cpu", n_envs=2, optimize_memory_usage=once)
    log = fill(buffer, n_steps, np.random.default_rng(0), end_probability=0.4)
    samples = buffer.sample(500)
    numbers = th.stack([numbers_of(samples.observations), numbers_of(samples.next_observations)])
    envs, steps = steps_of(log, numbers[0])
    row = (samples.actions[None], samples.rewards.T, samples.dones.T)
    assert_steps_are(log, envs, steps[None], numbers, *row, counts=np.ones((1, 500), bool))


@pytest.mark.parametrize("storage", ["host", "device"])
@ONCE
def test_a_reset_starts_another_episode(once, storage):
    if once and storage == "device":
        with pytest.raises(ValueError, match="leave optimize_memory_usage out"):
            SequenceReplayBuffer(80, OBSERVATIONS, ACTIONS, optimize_memory_usage=once, storage=storage)
        return
    buffer = SequenceReplayBuffer(80, OBSERVATIONS, ACTIONS, device="cpu", optimize_memory_usage=once, storage=storage)
    buffer.truncate_episodes()  # an empty buffer has no episode
    first = fill(buffer, 10, np.random.default_rng(0), end_probability=0.0)
    buffer.sample_sequences(1, 1)  # makes the copy on the device
    buffer.truncate_episodes()
    buffer.truncate_episodes()
    second = fill(buffer, 10, np.random.default_rng(1), end_probability=0.0, first_id=100)
    first["dones"][:, -1] = first["truncated"][:, -1] = True
    assert_samples_are({name: np.concatenate([first[name], second[name]], axis=1) for name in first}, 0, buffer, 4)


@SPACES
@ONCE
@pytest.mark.parametrize("n_steps", [25, 57])
@pytest.mark.parametrize(("n_before", "n_after"), [(1, 3), (3, 1), (2, 3)])
def test_another_number_of_environments(n_before, n_after, n_steps, once, space):
    buffer = SequenceReplayBuffer(
        40 * n_before, space, ACTIONS, device="cpu", n_envs=n_before, optimize_memory_usage=once
    )
    log = fill(buffer, n_steps, np.random.default_rng(0))
    other = buffer.resize_n_envs(n_after)
    assert other.n_envs == n_after
    assert other.buffer_size == 40 * n_before // n_after
    held = (39 if once else 40) if n_steps >= 40 else n_steps
    assert other.size() == held * n_before // n_after
    assert other.has_terminations
    batch = other.sample_sequences(500, 3)
    numbers = numbers_of(batch.observations)
    counts = batch.mask.numpy() > 0
    envs, starts = steps_of(log, numbers[0])
    # A sequence can end earlier than in the log, where its episode was divided.
    steps = np.minimum(starts + np.arange(3)[:, None], n_steps - 1)
    assert_steps_are(log, envs, steps, numbers, batch.actions, batch.rewards, batch.terminations, counts)
    # The first buffer is unchanged, and both take more transitions.
    assert buffer.n_envs == n_before
    fill(buffer, 3, np.random.default_rng(1))
    fill(other, 3, np.random.default_rng(1), first_id=1000)
    # No sequence continues from an old transition to an added one.
    batch = other.sample_sequences(500, 3)
    added = numbers_of(batch.observations).numpy()[:-1, :, 0] > 1000
    assert added.any()
    assert (added == added[0])[batch.mask.numpy() > 0].all()
    assert SequenceReplayBuffer(40, space, ACTIONS, device="cpu").resize_n_envs(2).size() == 0


def step_of(done, truncated, n_envs=1):
    """Arguments of ``add``: one transition of every environment."""
    zeros = np.zeros((n_envs, 2), np.float32)
    infos = [{"TimeLimit.truncated": truncated}] * n_envs
    return zeros, zeros, np.zeros((n_envs, 1), np.float32), np.zeros(n_envs), np.full(n_envs, done), infos


def episode_of(terminated, n_steps=6):
    return Episode(
        np.zeros((n_steps + 1, 2), np.float32), np.zeros((n_steps, 1), np.float32), np.zeros(n_steps), terminated
    )


def test_episodes_are_cleaned_and_bad_ones_lose_nothing():
    buffer = SequenceReplayBuffer(12, OBSERVATIONS, ACTIONS, device="cpu")
    good = episode_of(terminated=True, n_steps=2)
    buffer.add_episodes([good._replace(actions=[1.00005, -0.5], rewards=[1, 2])])
    assert buffer.actions[:2].tolist() == [[[1.0]], [[-0.5]]]
    for changes, message in (
        (dict(actions=np.full((2, 1), -3.0)), r"actions of episode 1 must lie in \[-1, 1\], got 3 at step 0"),
        (dict(rewards=np.array([0.0, np.nan])), "rewards of episode 1 are NaN or infinite at step 1"),
    ):
        with pytest.raises(ValueError, match=message):
            buffer.add_episodes([good, good._replace(**changes)])
    assert buffer.size() == 2


def test_terminations_are_remembered():
    buffer = SequenceReplayBuffer(12, OBSERVATIONS, ACTIONS, device="cpu", n_envs=2)
    buffer.add(*step_of(done=False, truncated=False, n_envs=2))
    buffer.add(*step_of(done=True, truncated=True, n_envs=2))
    buffer.add_episodes([episode_of(terminated=False)])
    assert not buffer.has_terminations
    with_episodes = pickle.loads(pickle.dumps(buffer))
    with_episodes.add_episodes([episode_of(terminated=True, n_steps=2)])
    buffer.add(*step_of(done=True, truncated=False, n_envs=2))
    for full in (buffer, with_episodes):
        assert full.has_terminations
        # They are remembered when the buffer is resized, goes through a file, and when the step is overwritten.
        restored = pickle.loads(pickle.dumps(full.resize_n_envs(1)))
        for _ in range(12):
            restored.add(*step_of(done=False, truncated=False))
        assert restored.has_terminations
    every_end = SequenceReplayBuffer(12, OBSERVATIONS, ACTIONS, device="cpu", handle_timeout_termination=False)
    every_end.add(*step_of(done=True, truncated=True))
    assert every_end.has_terminations


def test_actions_that_were_cut_to_integers_are_refused(tmp_path):
    """SB3's buffers store scaled actions in the dtype of the space."""
    space = spaces.Box(-5, 5, (1,), np.int32)
    cut = ReplayBuffer(12, OBSERVATIONS, space, device="cpu", handle_timeout_termination=True)
    with pytest.raises(ValueError, match=r"the replay buffer has lost its actions: those of Box\(-5, 5.*as int32"):
        OfflineDataset.from_replay_buffer(cut)
    buffer = SequenceReplayBuffer(12, OBSERVATIONS, space, device="cpu")
    buffer.add(*step_of(done=False, truncated=False))
    buffer.actions = buffer.actions.astype(np.int32)
    with pytest.raises(ValueError, match="has lost its actions"):
        pickle.loads(pickle.dumps(buffer))


def test_a_buffer_of_a_newer_version_is_refused(monkeypatch):
    buffer = SequenceReplayBuffer(12, OBSERVATIONS, ACTIONS, device="cpu")
    monkeypatch.setattr("sb3_pwm.data.replay_buffer.FILE_FORMAT", FILE_FORMAT + 1)
    newer = pickle.dumps(buffer)
    with pytest.raises(FileFormatError, match=rf"replay buffer of a newer version .*file format {FILE_FORMAT + 1}"):
        pickle.loads(newer)


def test_stored_once_takes_half_of_the_memory():
    images = spaces.Box(0, 255, (3, 64, 64), np.uint8)
    sizes = []
    for once in (False, True):
        buffer = SequenceReplayBuffer(100, images, ACTIONS, device="cpu", optimize_memory_usage=once)
        for step in range(100):
            image = np.full((1, 3, 64, 64), step, np.uint8)
            buffer.add(image, image, np.zeros((1, 1)), np.zeros(1), np.array([step % 25 == 24]), [{}])
        sizes.append(len(pickle.dumps(buffer)))
        assert np.shares_memory(buffer.observations, buffer.next_observations) == once
    assert sizes[1] < 0.54 * sizes[0]  # 100 + 1 observations, and the last ones of four episodes


def test_every_end_is_a_termination_without_handle_timeout_termination():
    buffer = SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, device="cpu", handle_timeout_termination=False)
    log = fill(buffer, 60, np.random.default_rng(0))
    assert log["truncated"].any()
    log["truncated"][:] = False
    assert_samples_are(log, 0, buffer, 3)


def test_warns_before_it_allocates_more_than_there_is(monkeypatch):
    available = psutil.virtual_memory()._replace(available=2_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SequenceReplayBuffer(60_000, OBSERVATIONS, ACTIONS)  # 60,000 (2 8 + 16) bytes
        SequenceReplayBuffer(80_000, OBSERVATIONS, ACTIONS, optimize_memory_usage=True)
    with pytest.warns(UserWarning, match=r"80000 transitions takes 0\.00 GB.*or set optimize_memory_usage=True"):
        buffer = SequenceReplayBuffer(80_000, OBSERVATIONS, ACTIONS)
    assert not buffer.allocated
    with pytest.warns(UserWarning, match="60000 transitions"):
        SequenceReplayBuffer(60_000, ENTRIES, ACTIONS, n_envs=2)


def test_too_few_steps_is_a_clear_error():
    buffer = SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, device="cpu")
    with pytest.raises(ValueError, match="horizon=4"):
        buffer.sample_sequences(2, 4)
    fill(buffer, 3, np.random.default_rng(0))
    with pytest.raises(ValueError, match="holds 3 steps"):
        buffer.sample_sequences(2, 4)


def test_storage_is_allocated_by_the_first_transition():
    with pytest.warns(UserWarning, match=r"takes 80\.02 GB"):
        buffer = SequenceReplayBuffer(1_000_000, spaces.Box(-1, 1, (10_000,), np.float32), ACTIONS, device="cpu")
    assert not hasattr(buffer, "observations")
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(2)
    small = SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, device="cpu", n_envs=2)
    fill(small, 1, np.random.default_rng(0))
    assert small.observations.shape == (50, 2, 2)
    assert small.sample(5).observations.shape == (5, 2)


def test_normalizes_with_vec_normalize():
    class Env(gym.Env):
        observation_space, action_space = OBSERVATIONS, ACTIONS

        def reset(self, seed=None, options=None):
            return np.zeros(2, np.float32), {}

    env = VecNormalize(DummyVecEnv([Env]))
    env.obs_rms.mean, env.obs_rms.var = np.array([10.0, 0.0]), np.array([4.0, 1.0])
    env.ret_rms.var = 9.0
    buffer = SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, device="cpu")
    fill(buffer, 1, np.random.default_rng(0), end_probability=0.0)
    buffer.rewards[0] = 6.0
    batch = buffer.sample_sequences(1, 1, env=env)
    assert batch.observations[0, 0, 0].item() == pytest.approx((1.0 - 10.0) / 2.0, rel=1e-4)
    assert batch.rewards.item() == 6.0  # PWM scales rewards itself
    samples = buffer.sample(1, env=env)  # SB3's interface normalizes them, as SB3's buffers do
    assert samples.rewards.item() == pytest.approx(2.0, rel=1e-4)
    assert samples.observations[0, 0].item() == pytest.approx((1.0 - 10.0) / 2.0, rel=1e-4)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("n_steps", [30, 95])  # not full, wrapped around twice
def test_device_storage_samples_what_host_storage_does(n_steps, normalized):
    class Blank(gym.Env):
        observation_space, action_space = OBSERVATIONS, ACTIONS

    statistics = None
    if normalized:
        statistics = VecNormalize(DummyVecEnv([Blank, Blank]), clip_obs=2.0, clip_reward=0.5)
        statistics.obs_rms.mean, statistics.obs_rms.var = np.array([5.0, 0.5]), np.array([30.0, 0.2])
        statistics.ret_rms.var = 4.0

    def sample(buffer):
        np.random.seed(1)
        batch, single = buffer.sample_sequences(64, 5, env=statistics), buffer.sample(64, env=statistics)
        assert (single.rewards.abs().max() > 0.5) != normalized
        return (*batch[:5], *single[:5])

    host, device = (
        SequenceReplayBuffer(80, OBSERVATIONS, ACTIONS, device="cpu", n_envs=2, storage=storage)
        for storage in ("host", "device")
    )
    for buffer in (host, device):
        fill(buffer, n_steps, np.random.default_rng(0))
    expected = sample(host)
    # The second sample is of the rows that the first one has copied, and a buffer from a file copies them again.
    for buffer in (device, device, pickle.loads(pickle.dumps(device))):
        for values, others in zip(expected, sample(buffer), strict=True):
            th.testing.assert_close(others, values, rtol=1e-5, atol=1e-5)


def test_device_storage_takes_episodes():
    batches = []
    for storage in ("host", "device"):
        buffer = SequenceReplayBuffer(20, OBSERVATIONS, ACTIONS, device="cpu", storage=storage)
        fill(buffer, 5, np.random.default_rng(0))
        buffer.sample_sequences(4, 2)  # makes the copy on the device
        buffer.add_episodes([episode_of(terminated=True)])
        np.random.seed(0)
        batches.append(buffer.sample_sequences(200, 2))
    for host, device in zip(*(batch[:5] for batch in batches), strict=True):
        th.testing.assert_close(device, host)
    assert batches[0].terminations.any()


@pytest.mark.parametrize("storage", ["host", "device", "auto"])
def test_only_device_storage_samples_from_a_copy(storage):
    buffer = SequenceReplayBuffer(40, OBSERVATIONS, ACTIONS, device="cpu", storage=storage)
    fill(buffer, 10, np.random.default_rng(0))
    buffer.sample_sequences(4, 3)
    buffer.rewards[:] = 7.0
    assert (buffer.sample_sequences(4, 3).rewards == 7.0).all() == (storage != "device")


def test_bad_storage_is_refused():
    with pytest.raises(ValueError, match=r'storage must be "auto", "host" or "device", got .gpu'):
        SequenceReplayBuffer(40, OBSERVATIONS, ACTIONS, storage="gpu")
    with pytest.raises(ValueError, match='use storage="host"'):
        SequenceReplayBuffer(40, spaces.Box(0, 255, (4,), np.uint8), ACTIONS, storage="device")
    with pytest.raises(ValueError, match='use storage="host"'):
        SequenceReplayBuffer(40, ENTRIES, ACTIONS, storage="device")


def test_buffer_too_large_names_the_knob():
    with pytest.warns(UserWarning, match="lower buffer_size"):
        buffer = SequenceReplayBuffer(10**15, OBSERVATIONS, ACTIONS, device="cpu")
    with pytest.raises(MemoryError, match="Lower buffer_size"):
        fill(buffer, 1, np.random.default_rng(0))


@pytest.mark.parametrize(("n_envs", "size", "gamma"), [(1, 100, 0.9), (2, 30, 0.8), (3, 25, 1.0), (1, 40, 0.0)])
def test_discounted_sequences_begin_as_episodes_are_visited(n_envs, size, gamma):
    """Step t of each episode is drawn in proportion to gamma ** t: short episodes end, and count for less."""
    rng, n_samples = np.random.default_rng(0), 40_000
    buffer = SequenceReplayBuffer(size * n_envs, OBSERVATIONS, ACTIONS, "cpu", n_envs)
    observations, dones = np.zeros((n_envs, 2), np.float32), np.zeros(n_envs)
    for step in range(size + 7):  # the oldest steps are overwritten
        observations[:, 0] = step * n_envs + np.arange(n_envs)
        dones = rng.random(n_envs) < 0.15
        buffer.add(observations, observations, np.zeros((n_envs, 1)), np.zeros(n_envs), dones, [{}] * n_envs)
    oldest, n_rows = buffer.sampled_rows()
    expected: dict[float, float] = {}
    for env in range(n_envs):
        rows = (oldest + np.arange(n_rows)) % buffer.buffer_size
        ends = np.flatnonzero(buffer.dones[rows, env]).tolist()
        for first, last in itertools.pairwise([-1, *(end for end in ends if end < n_rows - 1), n_rows - 1]):
            for t, row in enumerate(rows[first + 1 : last + 1]):
                expected[float(buffer.observations[row, env, 0])] = gamma**t
    np.random.seed(0)
    batch = buffer.sample_sequences(n_samples, 1, sampling=SequenceSampling(1.0, gamma))
    ids, counts = np.unique(batch.observations[0, :, 0].numpy(), return_counts=True)
    assert set(ids) <= {number for number, weight in expected.items() if weight > 0}
    drawn = dict(zip(ids.tolist(), (counts / n_samples).tolist(), strict=True))
    for number, weight in expected.items():
        assert drawn.get(number, 0.0) == pytest.approx(weight / sum(expected.values()), abs=0.006)


def test_half_of_the_sequences_can_be_discounted():
    buffer = SequenceReplayBuffer(200, OBSERVATIONS, ACTIONS, "cpu")
    for step in range(200):  # two episodes, which begin at 0 and at 100
        observation = np.full((1, 2), step, np.float32)
        buffer.add(observation, observation, np.zeros((1, 1)), np.zeros(1), np.array([step % 100 == 99]), [{}])
    np.random.seed(0)
    batch = buffer.sample_sequences(10_000, 4, sampling=SequenceSampling(0.5, 0.5))
    offset = batch.observations[0, :, 0] % 100
    assert (offset < 3).float().mean().item() == pytest.approx(0.5 * 0.875 + 0.5 * 0.03, abs=0.02)
    assert batch.mask.shape == (4, 10_000)
    batch = buffer.sample_sequences(5_000, 190, sampling=SequenceSampling(1.0))
    assert not batch.observations[0, :, 0].gt(10).any()


def test_discounted_sequences_follow_a_buffer_that_was_filled_anew():
    """As many steps as the buffer holds leave its position as it was, and none of its episodes."""
    buffer = SequenceReplayBuffer(20, OBSERVATIONS, ACTIONS, "cpu")

    def fill_with(first, length):
        for step in range(20):  # the observation of a step is its number in its episode
            observation = np.full((1, 2), step % length, np.float32)
            ends = np.array([step % length == length - 1])
            buffer.add(observation, observation, np.zeros((1, 1)), np.full(1, first), ends, [{}])

    for first, length in enumerate((5, 20)):
        fill_with(first, length)
        batch = buffer.sample_sequences(200, 1, sampling=SequenceSampling(1.0, 0.0))  # the first steps of episodes
        assert (batch.rewards == first).all()
        assert (batch.observations[0] == 0.0).all()


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_new_steps_have_their_share(n_envs, optimize_memory_usage):
    """Observations of data are negative, those of new steps their number."""
    buffer = SequenceReplayBuffer(300 * n_envs, OBSERVATIONS, ACTIONS, "cpu", n_envs, optimize_memory_usage)
    half = SequenceSampling(new_fraction=0.5)

    def share_of_new(horizon, batch_size=4_000):
        batch = buffer.sample_sequences(batch_size, horizon, sampling=half)
        return (batch.observations[0, :, 0] >= 0.0).float().mean().item()

    def step(number):
        observation = np.full((n_envs, 2), number, np.float32)
        buffer.add(
            observation, observation, np.zeros((n_envs, 1)), np.zeros(n_envs), np.zeros(n_envs, bool), [{}] * n_envs
        )

    for number in range(-200, 0):
        step(number)
    buffer.n_new_rows = 0
    assert share_of_new(4) == 0.0
    for number in range(3):
        step(number)
    assert share_of_new(4) == 0.0  # a sequence of new steps alone does not fit yet
    for number in range(3, 40):
        step(number)
    # Each new step is drawn once on average, however large the batch is. Few of the uniform sequences are new.
    assert share_of_new(4, 2_000) == pytest.approx(10 * n_envs / 2_000 + 37 / 237, abs=0.03)
    assert np.mean([share_of_new(4, 8) for _ in range(500)]) == pytest.approx(0.5 + 0.5 * 37 / 237, abs=0.03)
    drawn = buffer.sample_sequences(20 * n_envs, 4, sampling=SequenceSampling(new_fraction=1.0)).observations
    new = drawn[0, : 10 * n_envs, 0]
    assert ((new >= 0.0) & (new <= 36.0)).all()
    assert (drawn[0, 10 * n_envs :, 0] < 0.0).any()
    for number in range(40, 400):  # the data is overwritten
        step(number)
    assert share_of_new(4) == 1.0


def test_data_is_not_new():
    buffer = SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, "cpu")
    for number in range(10):
        observation = np.full((1, 2), number, np.float32)
        buffer.add(observation, observation, np.zeros((1, 1)), np.zeros(1), np.array([number == 9]), [{}])
    assert buffer.n_new_rows == 10
    assert pickle.loads(pickle.dumps(buffer)).n_new_rows == 10
    steps = np.zeros((6, 2), np.float32)
    buffer.add_episodes([Episode(steps, np.zeros((5, 1), np.float32), np.zeros(5, np.float32), True)])
    assert buffer.n_new_rows == 0


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_episodes_are_those_of_the_whole_buffer_at_each_step(n_envs, optimize_memory_usage):
    """The table is kept up to date step by step, also when the buffer forgets."""
    rng = np.random.default_rng(0)
    buffer = SequenceReplayBuffer(17 * n_envs, OBSERVATIONS, ACTIONS, "cpu", n_envs, optimize_memory_usage)

    def add(chance):
        observations = rng.normal(size=(n_envs, 2))
        dones = rng.random(n_envs) < chance
        buffer.add(observations, observations, np.zeros((n_envs, 1)), np.zeros(n_envs), dones, [{}] * n_envs)

    def rows(table):
        return sorted(zip(*(values.tolist() for values in table.lookup(np.arange(len(table)), size)), strict=True))

    add(0.0)
    table = buffer._episodes()
    for step in range(300):
        add((0.02, 0.2, 0.9)[step // 40 % 3])
        oldest, size = buffer.sampled_rows()
        assert buffer._episodes() is table
        whole = EpisodeTable(buffer.dones[(oldest + np.arange(size)) % buffer.buffer_size])
        assert rows(table) == rows(whole)
        assert sum(length for _, _, length in rows(table)) == size * n_envs
    buffer.truncate_episodes()
    oldest, size = buffer.sampled_rows()
    assert rows(buffer._episodes()) == rows(EpisodeTable(buffer.dones[(oldest + np.arange(size)) % buffer.buffer_size]))
    add(0.0)
    assert buffer.episode_lengths.min() == 1  # each environment has begun an episode


@pytest.mark.parametrize("optimize_memory_usage", [False, True])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_outcomes_by_brute_force(n_envs, optimize_memory_usage):
    """What followed each step to the end of its episode, while the buffer fills, forgets, and has new steps."""
    rng, gamma, every = np.random.default_rng(0), 0.9, replay_buffer.OUTCOMES_EVERY
    buffer = SequenceReplayBuffer(150 * n_envs, OBSERVATIONS, ACTIONS, "cpu", n_envs, optimize_memory_usage)
    following = np.zeros((n_envs, 2), np.float32)

    def add(n_steps):
        nonlocal following
        for _ in range(n_steps):
            observation, following = following, rng.normal(size=(n_envs, 2)).astype(np.float32)
            dones, cut = rng.random(n_envs) < 0.1, rng.random(n_envs) < 0.5
            infos = [{"TimeLimit.truncated": bool(value)} for value in dones & cut]
            buffer.add(observation, following, np.zeros((n_envs, 1)), rng.normal(size=n_envs), dones, infos)
            following = np.where(dones[:, None], np.float32(7.0), following)

    def check(n_new):
        """:param n_new: Number of the newest steps whose outcome is not known."""
        batch = buffer.sample_sequences(300, 4, sampling=SequenceSampling(gamma=gamma), outcomes=True)
        oldest, size = buffer.sampled_rows()
        rows = (oldest + np.arange(size)) % buffer.buffer_size
        expected = {}
        for env in range(n_envs):
            total, bootstrap, last = 0.0, 1.0, None
            for row in rows[: size - n_new][::-1]:
                if buffer.dones[row, env] or last is None:
                    total, last = 0.0, buffer.next_observations_of(np.array([row]), np.array([env]))[0]
                    bootstrap = 1.0 - buffer.dones[row, env] * (1.0 - buffer.timeouts[row, env])
                total, bootstrap = buffer.rewards[row, env] + gamma * total, gamma * bootstrap
                expected[float(buffer.rewards[row, env])] = (total, bootstrap, last)
        outcome, n_known = batch.outcome, 0
        for step, number in itertools.product(range(4), range(300)):
            found = expected.get(batch.rewards[step, number].item())
            assert outcome.returns[step, number].isnan().item() == (found is None)
            if found is not None:
                n_known += 1
                assert outcome.returns[step, number].item() == pytest.approx(found[0], abs=1e-5)
                assert outcome.bootstrap[step, number].item() == pytest.approx(found[1], abs=1e-6)
                if step == 0:
                    np.testing.assert_array_equal(outcome.last_observations[number].numpy(), found[2])
        assert n_known > 0

    add(40)
    check(0)
    add(every - 1)
    check(every - 1)  # the table is not made anew for each step
    add(1)
    check(0)
    add(60)  # the buffer forgets
    check(60)
    add(40)
    check(0)
    buffer.truncate_episodes()
    check(0)
    assert buffer.sample_sequences(5, 3).outcome is None
    assert pickle.loads(pickle.dumps(buffer))._outcome_table is None


def test_outcomes_are_normalized_and_follow_the_discount_factor():
    buffer = SequenceReplayBuffer(10, OBSERVATIONS, ACTIONS, "cpu")
    for step in range(3):
        observation, following = np.full((1, 2), step, np.float32), np.full((1, 2), step + 1, np.float32)
        buffer.add(observation, following, np.zeros((1, 1)), np.ones(1), np.array([step == 2]), [{}])
    for gamma in (0.5, 1.0):
        outcome = buffer.sample_sequences(1, 3, sampling=SequenceSampling(gamma=gamma), outcomes=True).outcome
        assert outcome.returns[:, 0].tolist() == [1 + gamma + gamma**2, 1 + gamma, 1.0]
        assert outcome.bootstrap[:, 0].tolist() == [0.0, 0.0, 0.0]  # it terminated
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), norm_reward=False)
    env.obs_rms.mean, env.obs_rms.var = np.full(2, 2.0), np.full(2, 4.0)
    outcome = buffer.sample_sequences(1, 3, env, outcomes=True).outcome
    np.testing.assert_allclose(outcome.last_observations.numpy(), 0.5, atol=1e-6)
