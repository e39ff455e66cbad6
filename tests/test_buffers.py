"""The sequence buffer against brute force."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pwm import SequenceReplayBuffer

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)


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
            np.array([[row["obs"], env] for env, row in enumerate(rows)], np.float32),
            np.array([[row["next_obs"], env] for env, row in enumerate(rows)], np.float32),
            np.array([[row["action"]] for row in rows], np.float32),
            np.array([row["reward"] for row in rows]),
            np.array([row["done"] for row in rows]),
            [{"TimeLimit.truncated": row["truncated"]} for row in rows],
        )
    return logs


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_steps", [12, 40, 57, 80])  # not full, just full, wrapped around in the middle, twice over
@pytest.mark.parametrize("horizon", [1, 4, 7])
def test_sequences_against_brute_force(n_envs, n_steps, horizon):
    capacity = 40
    rng = np.random.default_rng(n_steps + horizon)
    np.random.seed(n_steps)
    buffer = SequenceReplayBuffer(capacity * n_envs, OBSERVATIONS, ACTIONS, device="cpu", n_envs=n_envs)
    logs = fill(buffer, n_steps, n_envs, rng)
    batch = buffer.sample_sequences(3000, horizon)
    assert batch.observations.shape == (horizon + 1, 3000, 2)
    assert batch.actions.shape == (horizon, 3000, 1)

    oldest = max(n_steps - capacity, 0)
    seen = set()
    for b in range(3000):
        env = int(batch.observations[0, b, 1])
        log = logs[env]
        start = next(i for i, row in enumerate(log) if row["obs"] == batch.observations[0, b, 0].item())
        assert oldest <= start <= n_steps - horizon, "the sequence leaves the buffer or crosses the write position"
        seen.add((env, start))
        alive = True
        for t in range(horizon):
            row = log[start + t]
            assert batch.mask[t, b].item() == float(alive)
            if alive:
                assert batch.observations[t, b, 0].item() == row["obs"]
                assert batch.observations[t + 1, b, 0].item() == row["next_obs"]
                assert batch.actions[t, b, 0].item() == pytest.approx(row["action"])
                assert batch.rewards[t, b].item() == pytest.approx(row["reward"])
                assert batch.terminations[t, b].item() == float(row["done"] and not row["truncated"])
            alive = alive and not row["done"]
    assert seen == {(env, start) for env in range(n_envs) for start in range(oldest, n_steps - horizon + 1)}


def test_too_few_steps_is_a_clear_error():
    buffer = SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, device="cpu")
    with pytest.raises(ValueError, match="horizon=4"):
        buffer.sample_sequences(2, 4)
    fill(buffer, 3, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="holds 3 steps"):
        buffer.sample_sequences(2, 4)


def test_storage_is_allocated_by_the_first_transition():
    buffer = SequenceReplayBuffer(1_000_000, spaces.Box(-1, 1, (10_000,), np.float32), ACTIONS, device="cpu")  # 80 GB
    assert not hasattr(buffer, "observations")
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(2)
    small = SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, device="cpu", n_envs=2)
    fill(small, 1, 2, np.random.default_rng(0))
    assert small.observations.shape == (50, 2, 2)
    assert small.sample(5).observations.shape == (5, 2)


def test_normalises_with_vec_normalize():
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


@pytest.mark.parametrize("argument", [dict(optimize_memory_usage=True), dict(handle_timeout_termination=False)])
def test_refuses_what_loses_terminal_observations(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        SequenceReplayBuffer(100, OBSERVATIONS, ACTIONS, device="cpu", **argument)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("n_steps", [30, 95])  # not full, wrapped around twice
def test_device_storage_samples_what_host_storage_does(n_steps, normalised, tmp_path):
    class Blank(gym.Env):
        observation_space, action_space = OBSERVATIONS, ACTIONS

    statistics = None
    if normalised:
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


def test_buffer_too_large_names_the_knob():
    buffer = SequenceReplayBuffer(10**15, OBSERVATIONS, ACTIONS, device="cpu")
    with pytest.raises(MemoryError, match="Lower buffer_size"):
        fill(buffer, 1, 1, np.random.default_rng(0))
