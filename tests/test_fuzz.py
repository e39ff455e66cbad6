"""Anything that PWM's constructor accepts, it can learn with, save and load: drawn at random."""

import io

import gymnasium
import numpy as np
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env

from sb3_pwm import PWM

TINY = dict(latent_dim=16, world_model_kwargs=dict(encoder_dim=16, mlp_dim=16), net_arch=dict(pi=[8], vf=[8]))


class RandomEnv(gymnasium.Env):
    """Random observations and rewards of given spaces; ends for good, or is cut off, after some steps."""

    def __init__(self, observation_space, action_space, length, terminates):
        self.observation_space, self.action_space = observation_space, action_space
        self.length, self.terminates = length, terminates
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype)), action
        self.steps += 1
        ended = self.steps >= self.length
        reward = float(self.np_random.normal())
        return self.observation_space.sample(), reward, ended and self.terminates, ended and not self.terminates, {}


def boxes(dtypes):
    shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
    bounds = st.tuples(st.floats(-50.0, -0.1), st.floats(0.1, 50.0))
    return st.builds(
        lambda shape, bound, dtype: spaces.Box(bound[0], bound[1], shape, dtype),
        shapes,
        bounds,
        st.sampled_from(dtypes),
    )


OBSERVATIONS = st.one_of(
    boxes([np.float32, np.float64]),
    st.integers(2, 6).map(spaces.Discrete),
    st.lists(st.integers(2, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.integers(1, 5).map(spaces.MultiBinary),
)
ARGUMENTS = st.fixed_dictionaries(
    dict(
        horizon=st.integers(1, 6),
        batch_size=st.integers(1, 9),
        train_freq=st.one_of(
            st.integers(1, 5), st.tuples(st.integers(1, 2), st.just("episode")), st.tuples(st.just(3), st.just("step"))
        ),
        gradient_steps=st.integers(-1, 3),
        learning_starts=st.integers(0, 30),
        buffer_size=st.integers(5, 60),
        critic_epochs=st.integers(1, 2),
        critic_minibatches=st.integers(1, 3),
        world_model_steps=st.integers(0, 2),
        replay_critic_coef=st.sampled_from([0.0, 1.0]),
        replay_critic_horizon=st.integers(1, 8),
        tau=st.sampled_from([0.02, 1.0]),
        ent_coef=st.sampled_from(["auto", "auto_0.1", 0.0, 0.01]),
        checkpoint_rollout=st.booleans(),
    )
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(OBSERVATIONS, boxes([np.float32, np.float64]), st.integers(1, 3), st.integers(1, 12), st.booleans(), ARGUMENTS)
def test_what_is_accepted_works(observation_space, action_space, n_envs, length, terminates, arguments):
    env = make_vec_env(lambda: RandomEnv(observation_space, action_space, length, terminates), n_envs, seed=0)
    try:
        model = PWM("MlpPolicy", env, device="cpu", seed=0, policy_kwargs=TINY, **arguments)
    except ValueError:  # refused at the door
        return
    model.learn(45)
    assert model.num_timesteps >= 45
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = PWM.load(file, env, device="cpu")
    observations = np.stack([np.asarray(observation_space.sample()) for _ in range(3)])
    actions = model.predict(observations, deterministic=True)[0]
    assert actions.shape == (3, *action_space.shape)
    assert ((actions >= action_space.low - 1e-6) & (actions <= action_space.high + 1e-6)).all()
    np.testing.assert_array_equal(actions, loaded.predict(observations, deterministic=True)[0])
