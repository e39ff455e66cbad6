"""MyoSuite's tasks: seeds, rewards, success, the ends of episodes and pictures."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
from suites import check_random_stream, hide_package, make_rendered, random_episode

from sb3_pwm import PWM
from sb3_pwm.envs import register_envs
from sb3_pwm.envs.rendering import import_suite
from sb3_pwm.tasks import MYOSUITE_TASKS, task_name

register_envs()

# Every run of the suite has these. The other tasks run with -m slow.
USUAL = ("reach", "pose-hard", "obj-hold-hard", "key-turn-hard", "pen-twirl-hard")
SOME_TASKS = [pytest.param(task, marks=[] if task in USUAL else [pytest.mark.slow]) for task in MYOSUITE_TASKS]


@pytest.fixture
def myosuite():
    import_suite()  # chooses a graphics library, before MyoSuite imports MuJoCo
    return pytest.importorskip("myosuite", reason="needs MyoSuite, see docs/environments.md")


@pytest.mark.usefixtures("myosuite")
@pytest.mark.parametrize("task", SOME_TASKS)
def test_a_seed_decides_the_episode(task):
    env, other = gymnasium.make(f"Myo-{task}"), gymnasium.make(f"Myo-{task}")
    first, different, again = (random_episode(env, seed, 10) for seed in (3, 4, 3))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, random_episode(other, 3, 10))
    assert np.array_equal(first, different) == (not task.endswith("-hard"))  # the easy tasks always start in one state
    assert np.isfinite(first).all()
    env.close()
    other.close()


@pytest.mark.usefixtures("myosuite")
def test_reset_without_a_seed_goes_on_with_the_random_stream():
    check_random_stream(gymnasium.make("Myo-pose-hard"))


@pytest.mark.usefixtures("myosuite")
@pytest.mark.parametrize("task", SOME_TASKS)
def test_gymnasiums_checker_is_satisfied(task):
    env = gymnasium.make(f"Myo-{task}")
    check_env(env.unwrapped, skip_render_check=True)
    dimension = {"reach": 115, "pose": 108, "obj-hold": 91, "key-turn": 93, "pen-twirl": 83}[task.removesuffix("-hard")]
    assert env.observation_space.shape == (dimension,)
    assert env.action_space.shape == (39,)
    env.close()


@pytest.mark.usefixtures("myosuite")
@pytest.mark.parametrize("task", ["pen-twirl", "reach"])
def test_steps_are_myosuites_and_failures_do_not_end_the_episode(task):
    env, original = gymnasium.make(f"Myo-{task}"), gymnasium.make(MYOSUITE_TASKS[task])
    np.testing.assert_array_equal(env.reset(seed=0)[0], original.reset(seed=0)[0])
    rng, failed, truncated, n_steps = np.random.default_rng(0), False, False, 0
    while not truncated:
        action = rng.uniform(-1, 1, 39).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        n_steps += 1
        assert not terminated
        if not failed:
            expected, expected_reward, failed, _, expected_info = original.step(action)
            np.testing.assert_array_equal(observation, expected)
            assert reward == expected_reward
            assert info == {"success": float(expected_info["solved"]), "is_success": bool(expected_info["solved"])}
    assert n_steps == 100
    assert failed  # MyoSuite has ended its episode
    env.close()
    original.close()


@pytest.mark.usefixtures("myosuite")
def test_success_in_the_target_pose():
    env = gymnasium.make("Myo-pose")
    env.reset(seed=0)
    action = np.zeros(39, np.float32)
    assert env.step(action)[4] == {"success": 0.0, "is_success": False}
    hand = env.unwrapped._hand
    hand.set_state(hand.target_jnt_value, np.zeros(hand.model.nv))
    _, reward, _, _, info = env.step(action)
    assert info == {"success": 1.0, "is_success": True}
    assert reward > 0
    env.close()


@pytest.mark.usefixtures("myosuite")
def test_render():
    env = make_rendered("Myo-reach", width=128, height=96)
    picture = env.render()
    assert picture.shape == (96, 128, 3)
    assert picture.std() > 5
    env.close()


@pytest.mark.usefixtures("myosuite")
def test_in_processes_of_their_own():
    env = make_vec_env("sb3_pwm:Myo-obj-hold", 2, seed=0, vec_env_cls=SubprocVecEnv)
    env.reset()
    observations, _, _, infos = env.step(np.zeros((2, 39), np.float32))
    assert observations.shape == (2, 91)
    assert all(info["success"] == 0.0 for info in infos)
    env.close()


@pytest.mark.usefixtures("myosuite")
def test_pwm_takes_the_id_and_logs_success():
    model = PWM("MlpPolicy", "Myo-reach", learning_starts=100, buffer_size=1000, stats_window_size=1).learn(110)
    assert model.n_updates > 0
    assert list(model.ep_success_buffer) == [False]


@pytest.mark.usefixtures("myosuite")
def test_wrong_arguments():
    env = gymnasium.make("Myo-reach")
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        env.unwrapped.step(np.zeros(3, np.float32))
    env.close()
    with pytest.raises(ValueError, match=r"MyoSuite has no task 'reech'; its tasks are reach, "):
        gymnasium.make("Myo-reach", task="reech")


def test_names_of_tasks():
    assert task_name("Myo-pen-twirl-hard") == "myo-pen-twirl-hard"
    assert all(f"Myo-{task}" in gymnasium.registry for task in MYOSUITE_TASKS)


def test_without_myosuite_the_error_says_what_to_install(monkeypatch):
    hide_package(monkeypatch, "myosuite")
    with pytest.raises(ImportError, match=r"pip install 'sb3-pwm\[myosuite\]'"):
        gymnasium.make("Myo-reach")
