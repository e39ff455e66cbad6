"""PWM learns, saves and loads with all arguments that its constructor accepts: random arguments and spaces."""

import io
from collections import Counter

import numpy as np
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_env import TINY, RandomEnv, some
from stable_baselines3.common.env_util import make_vec_env

from sb3_pwm import PWM


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
IMAGES = st.builds(
    lambda n, size: spaces.Box(0, 255, (n, size, size), np.uint8), st.integers(1, 3), st.integers(36, 40)
)
DICTS = st.dictionaries(st.sampled_from("abcd"), st.one_of(OBSERVATIONS, IMAGES), min_size=1, max_size=3).map(
    spaces.Dict
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
        n_critic_epochs=st.integers(1, 2),
        n_critic_minibatches=st.integers(1, 3),
        world_model_updates=st.integers(0, 2),
        replay_critic_coef=st.sampled_from([0.0, 1.0]),
        replay_critic_horizon=st.integers(1, 8),
        tau=st.sampled_from([0.02, 1.0]),
        ent_coef=st.sampled_from(["auto", "auto_0.1", 0.0, 0.01]),
        gradient_checkpointing=st.booleans(),
        optimize_memory_usage=st.booleans(),
    )
)


SETTINGS = dict(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def test_what_is_accepted_works():
    outcomes = Counter()

    @settings(max_examples=40, **SETTINGS)
    @given(
        OBSERVATIONS, boxes([np.float32, np.float64]), st.integers(1, 3), st.integers(1, 12), st.booleans(), ARGUMENTS
    )
    def run(observation_space, action_space, n_envs, length, terminates, arguments):
        outcomes[check("MlpPolicy", observation_space, action_space, n_envs, length, terminates, arguments)] += 1

    run()
    # A constructor that refuses everything must not pass. PWM refuses horizons longer than the buffer, and episodes as
    # the unit of train_freq with several environments.
    assert outcomes["accepted"] >= 0.4 * outcomes.total() > 10, outcomes


def test_images_and_dictionaries():
    outcomes = Counter()
    kinds = st.one_of(
        st.tuples(st.just("CnnPolicy"), IMAGES),
        st.tuples(st.just("MlpPolicy"), IMAGES),
        st.tuples(st.just("MultiInputPolicy"), DICTS),
    )

    @settings(max_examples=10, **SETTINGS)
    @given(kinds, boxes([np.float32, np.float64]), st.integers(1, 3), st.integers(1, 12), st.booleans(), ARGUMENTS)
    def run(policy_and_space, action_space, n_envs, length, terminates, arguments):
        outcomes[check(*policy_and_space, action_space, n_envs, length, terminates, arguments)] += 1

    run()
    assert outcomes["accepted"] >= 0.4 * outcomes.total() > 3, outcomes


def check(policy, observation_space, action_space, n_envs, length, terminates, arguments):
    """The constructor refuses the arguments, or the model learns, acts within the bounds, is saved and is loaded."""
    env = make_vec_env(lambda: RandomEnv(observation_space, action_space, length, terminates), n_envs, seed=0)
    try:
        model = PWM(policy, env, device="cpu", seed=0, policy_kwargs=TINY, **arguments)
    except ValueError:
        return "refused"
    model.learn(45)
    assert model.num_timesteps >= 45
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = PWM.load(file, env, device="cpu")
    observations = some(env.observation_space, 3)
    actions = model.predict(observations, deterministic=True)[0]
    assert actions.shape == (3, *action_space.shape)
    assert ((actions >= action_space.low - 1e-6) & (actions <= action_space.high + 1e-6)).all()
    np.testing.assert_array_equal(actions, loaded.predict(observations, deterministic=True)[0])
    return "accepted"
