"""The sequence buffer against brute force."""

import numpy as np
import pytest
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
