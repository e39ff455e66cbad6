"""Meta-World's tasks: seeds, rewards, success and pictures."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv
from suites import check_random_stream, hide_package, make_rendered, random_episode

from sb3_pwm.envs import register_envs
from sb3_pwm.envs.rendering import import_suite
from sb3_pwm.tasks import META_WORLD_TASKS

register_envs()


# Every run of the suite has these, which differ in the motion of the arm. The other tasks run with -m slow.
USUAL = ("reach", "drawer-open", "peg-insert-side", "stick-push", "box-close")
SOME_TASKS = [pytest.param(task, marks=[] if task in USUAL else [pytest.mark.slow]) for task in META_WORLD_TASKS]


@pytest.fixture
def meta_world():
    import_suite()  # chooses a graphics library, before Meta-World is imported
    return pytest.importorskip("metaworld", reason="needs Meta-World: pip install 'sb3-pwm[metaworld]'")


def test_there_are_fifty_and_they_are_metaworlds(meta_world):
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert sorted(f"{task}-v3" for task in META_WORLD_TASKS) == sorted(ALL_V3_ENVIRONMENTS)
    assert all(f"Mw-{task}" in gymnasium.registry for task in META_WORLD_TASKS)


@pytest.mark.usefixtures("meta_world")
@pytest.mark.parametrize("task", SOME_TASKS)
def test_a_seed_decides_the_episode(task):
    env, other = gymnasium.make(f"Mw-{task}"), gymnasium.make(f"Mw-{task}")
    first, different, again = (random_episode(env, seed, 10) for seed in (3, 4, 3))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, random_episode(other, 3, 10))
    assert not np.array_equal(first, different)
    assert np.isfinite(first).all()
    assert np.abs(env.reset(seed=5)[0][-3:]).sum() > 0  # the goal is observable
    env.close()
    other.close()


@pytest.mark.usefixtures("meta_world")
def test_reset_without_a_seed_goes_on_with_the_random_stream():
    check_random_stream(gymnasium.make("Mw-reach"))


@pytest.mark.usefixtures("meta_world")
@pytest.mark.parametrize("task", SOME_TASKS)
def test_gymnasiums_checker_is_satisfied(task):
    env = gymnasium.make(f"Mw-{task}")
    check_env(env.unwrapped, skip_render_check=True)
    assert env.observation_space.shape == (39,)
    assert env.action_space.shape == (4,)
    env.close()


@pytest.mark.usefixtures("meta_world")
@pytest.mark.parametrize("task", SOME_TASKS)
def test_render(task):
    env = make_rendered(f"Mw-{task}", width=128, height=96)
    picture = env.render()
    assert picture.shape == (96, 128, 3)
    assert picture.std() > 5
    env.close()


@pytest.mark.usefixtures("meta_world")
@pytest.mark.parametrize("task", ["reach", "button-press", "drawer-close"])
def test_scripted_experts_succeed_within_an_episode(task):
    env = gymnasium.make(f"Mw-{task}")
    from metaworld.policies import ENV_POLICY_MAP

    expert, (observation, _), successes = ENV_POLICY_MAP[f"{task}-v3"](), env.reset(seed=0), []
    truncated = False
    while not truncated:
        action = np.clip(expert.get_action(observation.astype(np.float64)), -1, 1).astype(np.float32)
        observation, _, terminated, truncated, info = env.step(action)
        assert not terminated
        assert info["is_success"] == (info["success"] == 1.0)
        successes.append(info["success"])
    assert len(successes) == 100
    assert max(successes) == 1.0
    assert successes[0] == 0.0
    env.close()


@pytest.mark.usefixtures("meta_world")
def test_reward_is_the_sum_over_the_repeated_steps():
    once, twice = gymnasium.make("Mw-reach", action_repeat=1), gymnasium.make("Mw-reach")
    np.testing.assert_array_equal(once.reset(seed=1)[0], twice.reset(seed=1)[0])
    action = np.array([0.3, -0.5, 0.2, 1.0], np.float32)
    rewards = [once.step(action)[1], once.step(action)[1]]
    assert twice.step(action)[1] == pytest.approx(sum(rewards))
    once.close()
    twice.close()


@pytest.mark.usefixtures("meta_world")
def test_in_processes_of_their_own():
    env = make_vec_env("sb3_pwm:Mw-reach", 2, seed=0, vec_env_cls=SubprocVecEnv)
    env.reset()
    observations, rewards, _, infos = env.step(np.zeros((2, 4), np.float32))
    assert observations.shape == (2, 39)
    assert (rewards > 0).all()
    assert all(info["success"] == 0.0 for info in infos)
    env.close()


@pytest.mark.usefixtures("meta_world")
def test_wrong_arguments():
    env = gymnasium.make("Mw-reach")
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        env.unwrapped.step(np.zeros(3, np.float32))
    env.close()
    with pytest.raises(ValueError, match="action_repeat must be an integer of at least 1, got 0"):
        gymnasium.make("Mw-reach", action_repeat=0)
    with pytest.raises(ValueError, match=r"Meta-World has no task 'reech'; nearest: .*reach"):
        gymnasium.make("Mw-reach", task="reech")


def test_without_meta_world_the_error_says_what_to_install(monkeypatch):
    hide_package(monkeypatch, "metaworld")
    with pytest.raises(ImportError, match=r"pip install 'sb3-pwm\[metaworld\]'"):
        gymnasium.make("Mw-reach")
