"""Names, dimensions and scores of the tasks, compared with the environments."""

import gymnasium
import pytest

from sb3_pwm.envs import register_envs
from sb3_pwm.tasks import (
    IMAGE_TASKS,
    MT30,
    MT80,
    MYOSUITE_TASKS,
    SIMULATED_TASKS,
    dimensions,
    env_id,
    get_suite,
    normalized_score,
    published_scores,
    task_name,
)

register_envs()


def test_sizes_and_order_are_those_of_tdmpc2():
    assert (len(MT30.tasks), len(MT80.tasks)) == (30, 80)
    assert len(set(MT80.tasks)) == 80
    assert MT80.tasks[:30] == MT30.tasks
    # Some indices, counted by hand in TD-MPC2's list
    expected = {"walker-stand": 0, "cartpole-swingup": 10, "hopper-hop": 18, "walker-walk-backwards": 19}
    expected |= {"cheetah-jump": 24, "pendulum-spin": 29, "mw-assembly": 30, "mw-reach": 65, "mw-hand-insert": 79}
    assert {task: MT80.index(task) for task in expected} == expected
    assert MT80.index("Cup-spin") == MT30.index("cup-spin") == 28


def one_of_each():
    """MT30's tasks: one per domain and dimensions in every run of the suite, the others with ``-m slow``."""
    seen = set()
    for task in MT30.tasks:
        kind = task.partition("-")[0], dimensions(task)
        yield pytest.param(task, marks=[pytest.mark.slow] if kind in seen else [])
        seen.add(kind)


@pytest.mark.parametrize("task", one_of_each())
def test_dimensions_are_the_environments(task):
    env = gymnasium.make(env_id(task))
    assert dimensions(task) == (env.observation_space.shape[0], env.action_space.shape[0])
    env.close()


def test_largest_dimensions():
    assert (MT30.observation_dim, MT30.action_dim) == (24, 6)
    assert (MT80.observation_dim, MT80.action_dim) == (39, 6)
    assert set(MT80.env_ids) <= set(gymnasium.registry)


def test_published_scores_cover_the_suites():
    for suite in (MT30, MT80):
        scores = published_scores(suite.name)
        assert set(scores) == set(suite.tasks)
        assert all(0.0 <= score <= 1.0 for row in scores.values() for score in row.values())
    assert published_scores("mt30")["walker-walk"] == {"pwm_48m": 0.9858, "tdmpc2": 0.979}


def test_scores():
    assert normalized_score("walker-walk", 950.0) == 0.95
    assert normalized_score("mw-reach", 1800.0, success_rate=0.8) == 0.8
    with pytest.raises(ValueError, match="success_rate"):
        normalized_score("mw-reach", 1800.0)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"mt30 has no task 'walker-wlk'; nearest: walker-walk"):
        MT30.index("walker-wlk")
    with pytest.raises(ValueError, match=r"no suite 'mt50'; the suites are mt30, mt80"):
        get_suite("mt50")


def test_every_registered_id_belongs_to_a_task():
    ours = [name for name, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("sb3_pwm.envs")]
    assert len(ours) == 51 + 11 + 4 + 50 + len(MYOSUITE_TASKS) + len(SIMULATED_TASKS) + len(IMAGE_TASKS)
    for name in set(ours) - set(IMAGE_TASKS):  # task_name knows tasks with flat observations
        assert env_id(task_name(name)) == name
    assert task_name("HUMANOID_cmu-run") == "humanoid_CMU-run"
    assert task_name("Muscle-humanoid-stand") == "muscle-humanoid-stand"
    assert [task_name(task) for task in MT80.tasks] == list(MT80.tasks)
    with pytest.raises(ValueError, match="There is no task 'walker-wlk'; nearest: walker-walk"):
        task_name("walker-wlk")
