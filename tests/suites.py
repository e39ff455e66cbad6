"""What the tests of the wrapped suites share: episodes of random actions, pictures, and a suite that is not there."""

import sys

import gymnasium
import numpy as np
import pytest


def random_episode(env, seed, n_steps):
    """Observations and rewards of an episode of random actions, as one vector."""
    rng = np.random.default_rng(0)
    parts = [env.reset(seed=seed)[0]]
    for _ in range(n_steps):
        observation, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
        parts += [observation, [reward]]
    return np.concatenate(parts)


def check_random_stream(env):
    """A reset without a seed goes on with the random stream of the last seed."""
    starts = [env.reset(seed=5)[0], env.reset()[0], env.reset()[0]]
    assert not np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[1], starts[2])
    np.testing.assert_array_equal(starts[:2], [env.reset(seed=5)[0], env.reset()[0]])
    env.close()


def make_rendered(env_id, **kwargs):
    """Make an environment that has rendered a picture. Without a graphics library the test is skipped."""
    try:
        env = gymnasium.make(env_id, render_mode="rgb_array", **kwargs)
        env.reset(seed=0)
        env.render()
    except RuntimeError as error:
        if "apt-get install" not in str(error):
            raise
        pytest.skip(str(error))
    return env


def hide_package(monkeypatch, package):
    """Let a test find a package not installed."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
