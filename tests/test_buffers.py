"""The sequence buffer against brute force."""

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pwm import SequenceReplayBuffer

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ENTRIES = spaces.Dict(
    number=spaces.Box(-np.inf, np.inf, (2,), np.float32), image=spaces.Box(0, 255, (1, 2, 2), np.uint8)
)
ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)
N_SAMPLES = 1500  # of at most 120 different ones: all are seen


def observation_of(numbers, space):
    """``(n_envs, 2)`` of an id and the environment, in the form of the space."""
    numbers = np.asarray(numbers, np.float32)
    if space is OBSERVATIONS:
        return numbers
    image = np.repeat(numbers[:, 0] % 251, 4).reshape(-1, 1, 2, 2).astype(np.uint8)
    return {"number": numbers, "image": image}


def numbers_of(observations):
    """The ids, ``(..., 2)``, of what :func:`observation_of` has made; both entries must agree on them."""
    if isinstance(observations, th.Tensor):
        return observations
    ids = observations["number"][..., 0] % 251
    assert (observations["image"].flatten(-3) == ids.unsqueeze(-1)).all()
    return observations["number"]


def fill(buffer, n_steps, n_envs, rng, end_probability=0.15):
    """
    Add random episodes and return the log of every environment: dicts per step, with an id that is in the observation.

    Terminal observations carry an id that no other observation has, so that a mix-up of episodes cannot pass.
    """
    logs = [[] for _ in range(n_envs)]
    counter = 0

    def fresh():
        nonlocal counter
        counter += 1
        return float(counter)

    current = [fresh() for _ in range(n_envs)]
    for _ in range(n_steps):
        rows = []
        for env in range(n_envs):
            done = rng.random() < end_probability
            rows.append(
                dict(
                    obs=current[env],
                    next_obs=fresh(),
                    action=rng.uniform(-1, 1),
                    reward=rng.normal(),
                    done=done,
                    truncated=bool(done and rng.random() < 0.5),
                )
            )
            current[env] = fresh() if done else rows[-1]["next_obs"]
            logs[env].append(rows[-1])
        buffer.add(
            observation_of([[row["obs"], env] for env, row in enumerate(rows)], buffer.observation_space),
            observation_of([[row["next_obs"], env] for env, row in enumerate(rows)], buffer.observation_space),
            np.array([[row["action"]] for row in rows], np.float32),
            np.array([row["reward"] for row in rows]),
            np.array([row["done"] for row in rows]),
            [{"TimeLimit.truncated": row["truncated"]} for row in rows],
        )
    return logs


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_steps", [12, 40, 57, 80])  # not full, just full, wrapped around in the middle, twice over
@pytest.mark.parametrize("horizon", [1, 4, 7])
@pytest.mark.parametrize("space", [OBSERVATIONS, ENTRIES], ids=["Box", "Dict"])
@pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])
def test_sequences_against_brute_force(n_envs, n_steps, horizon, space, once):
    capacity = 40
    rng = np.random.default_rng(n_steps + horizon)
    np.random.seed(n_steps)
    buffer = SequenceReplayBuffer(
        capacity * n_envs, space, ACTIONS, device="cpu", n_envs=n_envs, optimize_memory_usage=once
    )
    logs = fill(buffer, n_steps, n_envs, rng)
    oldest = max(n_steps - capacity, 0)
    if once and n_steps >= capacity:
        oldest += 1  # its observation has made room for the newest one
    assert_samples_are(logs, oldest, buffer, horizon)
    if horizon == 4:  # the same after it went through a file
        assert_samples_are(logs, oldest, pickle.loads(pickle.dumps(buffer)), horizon)


def assert_samples_are(logs, oldest, buffer, horizon):
    """Every sequence is one of the logs', and every one of the logs' from the oldest step on is sampled."""
    n_envs, n_steps = len(logs), len(logs[0])
    batch = buffer.sample_sequences(N_SAMPLES, horizon)
    numbers = numbers_of(batch.observations)
    assert numbers.shape == (horizon + 1, N_SAMPLES, 2)
    assert batch.actions.shape == (horizon, N_SAMPLES, 1)

    seen = set()
    starts = [{row["obs"]: i for i, row in enumerate(log)} for log in logs]
    for b in range(N_SAMPLES):
        env = int(numbers[0, b, 1])
        log = logs[env]
        start = starts[env][numbers[0, b, 0].item()]
        assert oldest <= start <= n_steps - horizon, "the sequence leaves the buffer or crosses the write position"
        seen.add((env, start))
        alive = True
        for t in range(horizon):
            row = log[start + t]
            assert batch.mask[t, b].item() == float(alive)
            if alive:
                assert numbers[t, b, 0].item() == row["obs"]
                assert numbers[t + 1, b, 0].item() == row["next_obs"]
                assert batch.actions[t, b, 0].item() == pytest.approx(row["action"])
                assert batch.rewards[t, b].item() == pytest.approx(row["reward"])
                assert batch.terminations[t, b].item() == float(row["done"] and not row["truncated"])
            alive = alive and not row["done"]
    assert seen == {(env, start) for env in range(n_envs) for start in range(oldest, n_steps - horizon + 1)}


@pytest.mark.parametrize("space", [OBSERVATIONS, ENTRIES], ids=["Box", "Dict"])
@pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])
@pytest.mark.parametrize("n_steps", [25, 40, 53])
def test_single_transitions_are_those_of_the_steps(space, once, n_steps):
    buffer = SequenceReplayBuffer(80, space, ACTIONS, device="cpu", n_envs=2, optimize_memory_usage=once)
    logs = fill(buffer, n_steps, 2, np.random.default_rng(0), end_probability=0.4)
    samples = buffer.sample(500)
    before, after = numbers_of(samples.observations), numbers_of(samples.next_observations)
    rows = [{row["obs"]: row for row in log} for log in logs]
    for b in range(500):
        row = rows[int(before[b, 1])][before[b, 0].item()]
        assert after[b, 0].item() == row["next_obs"]
        assert samples.actions[b].item() == pytest.approx(row["action"])
        assert samples.rewards[b].item() == pytest.approx(row["reward"])
        assert samples.dones[b].item() == float(row["done"] and not row["truncated"])


@pytest.mark.parametrize("storage", ["host", "device"])
@pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])
def test_what_follows_a_reset_is_another_episode(once, storage):
    if once and storage == "device":
        with pytest.raises(ValueError, match="leave optimize_memory_usage out"):
            SequenceReplayBuffer(80, OBSERVATIONS, ACTIONS, optimize_memory_usage=once, storage=storage)
        return
    buffer = SequenceReplayBuffer(80, OBSERVATIONS, ACTIONS, device="cpu", optimize_memory_usage=once, storage=storage)
    buffer.truncate_episodes()  # of an empty one: nothing to cut
    first = fill(buffer, 10, 1, np.random.default_rng(0), end_probability=0.0)
    buffer.sample_sequences(1, 1)  # what is kept on a device is made
    buffer.truncate_episodes()
    buffer.truncate_episodes()
    second = fill(buffer, 10, 1, np.random.default_rng(1), end_probability=0.0)
    first[0][-1].update(done=True, truncated=True)
    for row in second[0]:
        row["obs"], row["next_obs"] = row["obs"] + 100.0, row["next_obs"] + 100.0
    # Ids that tell the two apart
    array = buffer._stored if once else buffer.observations
    array[10:21, 0, 0] += 100.0
    if not once:
        buffer.next_observations[10:20, 0, 0] += 100.0
    buffer._rows = None
    assert_samples_are([first[0] + second[0]], 0, buffer, 4)


@pytest.mark.parametrize("space", [OBSERVATIONS, ENTRIES], ids=["Box", "Dict"])
@pytest.mark.parametrize("once", [False, True], ids=["twice", "once"])
@pytest.mark.parametrize("n_steps", [25, 57])
@pytest.mark.parametrize(("n_before", "n_after"), [(1, 3), (3, 1), (2, 3), (2, 2)])
def test_spread_over_another_number_of_environments(n_before, n_after, n_steps, once, space):
    buffer = SequenceReplayBuffer(
        40 * n_before, space, ACTIONS, device="cpu", n_envs=n_before, optimize_memory_usage=once
    )
    logs = fill(buffer, n_steps, n_before, np.random.default_rng(0))
    other = buffer.resize_n_envs(n_after)
    assert other.n_envs == n_after
    assert other.buffer_size == 40 * n_before // n_after
    held = (39 if once else 40) if n_steps >= 40 else n_steps
    assert other.size() == held * n_before // n_after
    rows = [{row["obs"]: row for row in log} for log in logs]
    batch = other.sample_sequences(500, 3)
    numbers = numbers_of(batch.observations)
    for b in range(500):
        for t in range(3):
            if batch.mask[t, b] == 0.0:
                break
            row = rows[int(numbers[t, b, 1])][numbers[t, b, 0].item()]
            assert numbers[t + 1, b, 0].item() == row["next_obs"]
            assert batch.rewards[t, b].item() == pytest.approx(row["reward"])
            assert batch.terminations[t, b].item() == float(row["done"] and not row["truncated"])
    # The first buffer is as it was, and both take more
    assert buffer.n_envs == n_before
    fill(buffer, 3, n_before, np.random.default_rng(1))
    fill(other, 3, n_after, np.random.default_rng(1))
    assert SequenceReplayBuffer(40, space, ACTIONS, device="cpu").resize_n_envs(2).size() == 0


def test_stored_once_takes_half_of_the_memory():
    images = spaces.Box(0, 255, (3, 64, 64), np.uint8)
    sizes = []
    for once in (False, True):
        buffer = SequenceReplayBuffer(100, images, ACTIONS, device="cpu", optimize_memory_usage=once)
        for step in range(100):
            image = np.full((1, 3, 64, 64), step, np.uint8)
            buffer.add(image, image, np.zeros((1, 1)), np.zeros(1), np.array([step % 25 == 24]), [{}])
        sizes.append(len(pickle.dumps(buffer)))
        assert (buffer.observations.base is buffer.next_observations.base) == once or not once
    assert sizes[1] < 0.54 * sizes[0]  # 100 + 1 observations, and four episodes' last ones


def test_every_end_is_a_termination_without_handle_timeout_termination():
    buffer = SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, device="cpu", handle_timeout_termination=False)
    logs = fill(buffer, 60, 1, np.random.default_rng(0))
    assert any(row["truncated"] for row in logs[0])
    for row in logs[0]:
        row["truncated"] = False
    assert_samples_are(logs, 0, buffer, 3)


def test_warns_before_it_allocates_more_than_there_is(monkeypatch):
    psutil = __import__("psutil")
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
    fill(buffer, 3, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="holds 3 steps"):
        buffer.sample_sequences(2, 4)


def test_storage_is_allocated_by_the_first_transition():
    with pytest.warns(UserWarning, match=r"takes 80\.02 GB"):
        buffer = SequenceReplayBuffer(1_000_000, spaces.Box(-1, 1, (10_000,), np.float32), ACTIONS, device="cpu")
    assert not hasattr(buffer, "observations")
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(2)
    small = SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, device="cpu", n_envs=2)
    fill(small, 1, 2, np.random.default_rng(0))
    assert small.observations.shape == (50, 2, 2)
    assert small.sample(5).observations.shape == (5, 2)


def test_normalizes_with_vec_normalize():
    class Env(__import__("gymnasium").Env):
        observation_space, action_space = OBSERVATIONS, ACTIONS

        def reset(self, seed=None, options=None):
            return np.zeros(2, np.float32), {}

    env = VecNormalize(DummyVecEnv([Env]))
    env.obs_rms.mean, env.obs_rms.var = np.array([10.0, 0.0]), np.array([4.0, 1.0])
    env.ret_rms.var = 9.0
    buffer = SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, device="cpu")
    fill(buffer, 1, 1, np.random.default_rng(0), end_probability=0.0)
    buffer.rewards[0] = 6.0
    batch = buffer.sample_sequences(1, 1, env=env)
    assert batch.observations[0, 0, 0].item() == pytest.approx((1.0 - 10.0) / 2.0, rel=1e-4)
    assert batch.rewards.item() == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("n_steps", [30, 95])  # not full, wrapped around twice
def test_device_storage_samples_what_host_storage_does(n_steps, normalized, tmp_path):
    class Blank(gym.Env):
        observation_space, action_space = OBSERVATIONS, ACTIONS

    statistics = None
    if normalized:
        statistics = VecNormalize(DummyVecEnv([Blank, Blank]), clip_obs=2.0, clip_reward=0.5)
        statistics.obs_rms.mean, statistics.obs_rms.var = np.array([5.0, 0.5]), np.array([30.0, 0.2])
        statistics.ret_rms.var = 4.0
    batches = []
    for storage in ("host", "device"):
        buffer = SequenceReplayBuffer(80, OBSERVATIONS, ACTIONS, device="cpu", n_envs=2, storage=storage)
        fill(buffer, n_steps, 2, np.random.default_rng(0))
        np.random.seed(1)
        batches.append(buffer.sample_sequences(64, 5, env=statistics))
        assert (buffer._rows is not None) == (storage == "device")
    # A buffer that went through a file makes its rows anew.
    buffer = pickle.loads(pickle.dumps(buffer))
    assert buffer._rows is None
    np.random.seed(1)
    batches.append(buffer.sample_sequences(64, 5, env=statistics))
    for batch in batches[1:]:
        for name in ("observations", "actions", "rewards", "terminations", "mask"):
            th.testing.assert_close(getattr(batch, name), getattr(batches[0], name), rtol=1e-5, atol=1e-5, msg=name)


def test_automatic_storage_is_the_host_without_a_gpu():
    buffer = SequenceReplayBuffer(40, OBSERVATIONS, ACTIONS, device="cpu")
    fill(buffer, 10, 1, np.random.default_rng(0))
    buffer.sample_sequences(4, 3)
    assert buffer._rows is None


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
        fill(buffer, 1, 1, np.random.default_rng(0))
