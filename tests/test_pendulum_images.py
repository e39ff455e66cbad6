"""The pendulum with image observations: the task of Pendulum-v1, and images that determine the state."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from stable_baselines3.common.preprocessing import is_image_space

from sb3_pwm.envs.pendulum_images import SIZE, draw_rod
from sb3_pwm.tasks import IMAGE_TASKS


@pytest.mark.parametrize("name", IMAGE_TASKS)
@pytest.mark.filterwarnings("ignore:.*symmetric and normalized")
def test_checkers(name):
    env = gymnasium.make(name)
    check_env(env.unwrapped, skip_render_check=True)
    check_env_for_sb3(env, skip_render_check=True)
    images = env.observation_space if name == "Pendulum-pixels" else env.observation_space["image"]
    assert is_image_space(images)
    assert env.spec.max_episode_steps == 200


@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_the_task_is_that_of_pendulum(name):
    seen, plain = gymnasium.make(name), gymnasium.make("Pendulum-v1")
    seen.reset(seed=3)
    plain.reset(seed=3)
    for step in range(200):
        action = np.array([2.0 * np.sin(step)], np.float32)
        observation, reward, terminated, truncated, _ = seen.step(action)
        state, expected, *_ = plain.step(action)
        assert reward == pytest.approx(float(expected))
        if name == "Pendulum-dict":
            assert observation["velocity"] == pytest.approx(state[2:])
        assert not terminated
    assert truncated


def test_pictures_show_the_last_state_and_the_one_before():
    env = gymnasium.make("Pendulum-pixels")
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation[0], observation[1])
    for _ in range(5):
        before = observation
        observation, *_ = env.step(np.ones(1, np.float32))
        np.testing.assert_array_equal(observation[1], before[0])
        np.testing.assert_array_equal(observation[0], draw_rod(env.unwrapped.state[0]))
        assert (observation[0] != observation[1]).any()
    first, _ = env.reset()
    np.testing.assert_array_equal(first[0], first[1])


@pytest.mark.parametrize(
    ("angle", "bright", "dark"),
    # Row and column of two pixels at half of the rod's length from the center
    [
        (0.0, (11, 20), (28, 20)),
        (np.pi, (28, 20), (11, 20)),
        (np.pi / 2, (20, 11), (20, 28)),
        (-np.pi / 2, (20, 28), (20, 11)),
    ],
)
def test_the_rod_points_where_the_angle_says(angle, bright, dark):
    picture = draw_rod(angle)
    assert picture.shape == (SIZE, SIZE)
    assert picture[bright] > 200
    assert picture[dark] == 0
    assert 0.02 < (picture > 0).mean() < 0.2


def test_neighboring_angles_differ_by_little():
    """Edges are smooth: a hundredth of a radian changes the image, and changes it little."""
    for angle in np.linspace(0, 6, 20):
        difference = np.abs(draw_rod(angle).astype(int) - draw_rod(angle + 0.01))
        assert 0 < difference.max() < 60
