"""The registered environments: spaces, dynamics, seeds, ends of episodes and pictures."""

import os
import pickle
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from suites import make_rendered

from sb3_pwm.envs import register_envs
from sb3_pwm.envs.dm_control import DMControlEnv, SuiteEnv
from sb3_pwm.envs.rendering import import_suite
from sb3_pwm.tasks import CUSTOM_TASKS, DM_CONTROL_TASKS, MUSCLE_TASKS, suite_env_id

register_envs()

SUITE = [(domain, task) for domain, tasks in DM_CONTROL_TASKS.items() for task in tasks]
SUITE_IDS = [suite_env_id(domain, task) for domain, task in SUITE]
CUSTOM_IDS = [suite_env_id(domain, task) for domain, tasks in CUSTOM_TASKS.items() for task in tasks]
MUSCLE_IDS = [suite_env_id(domain, task) for domain, tasks in MUSCLE_TASKS.items() for task in tasks]
ALL_IDS = [*SUITE_IDS, *CUSTOM_IDS, *MUSCLE_IDS]


# Every run of the suite has one task of each domain, and -m slow has the others. Where the tasks of a domain differ, it
# is one with scalars among its observations, a ball beside the robot, or action bounds that are uneven or absent.
PREFERRED = {"Dog-fetch", "Finger-turn-easy", "Lqr-lqr-6-2", "Quadruped-fetch", "Stacker-stack-4"}
# Tasks with other initial states or another body than the domain's other tasks
ALWAYS = {"Cup-spin", "Reacher-three-easy", "Muscle-humanoid-balance"}


def one_per_domain(ids):
    """:return: The ids as parameters of a test, with all but one of each domain marked as slow."""
    usual = dict.fromkeys(env_id.partition("-")[0] for env_id in ids)
    for env_id in reversed(ids):
        domain = env_id.partition("-")[0]
        if usual[domain] not in PREFERRED:
            usual[domain] = env_id
    kept = {*usual.values(), *ALWAYS}
    return [pytest.param(env_id, marks=[] if env_id in kept else [pytest.mark.slow]) for env_id in ids]


def load_bare(domain, task, seed):
    """dm_control's own environment, with the random state of an episode that has this seed."""
    environment = import_suite().load(domain, task, task_kwargs={"random": 0})
    environment.task.random.seed(seed)
    return environment


def rollout(env, seed, n_steps=5):
    """Observations (n_steps + 1, O) and rewards (n_steps,) of an episode. The seed also decides the actions."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (n_steps, *env.action_space.shape)).astype(np.float32)
    observations, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        observation, reward, _, _, _ = env.step(action)
        observations.append(observation)
        rewards.append(reward)
    return np.stack(observations), np.array(rewards)


# --- Registration ---------------------------------------------------------------------------------------------------


def test_every_task_of_the_suite_is_registered():
    assert sorted(SUITE) == sorted(import_suite().ALL_TASKS)
    assert len(set(ALL_IDS)) == len(SUITE) + 11 + 4
    assert set(ALL_IDS) <= set(gymnasium.registry)


@pytest.mark.parametrize(
    ("domain", "task", "env_id"),
    [
        ("dog", "run", "Dog-run"),
        ("ball_in_cup", "catch", "Cup-catch"),
        ("point_mass", "easy", "Pointmass-easy"),
        ("finger", "turn_easy", "Finger-turn-easy"),
        ("humanoid_CMU", "run", "Humanoid_CMU-run"),
        ("lqr", "lqr_2_1", "Lqr-lqr-2-1"),
        ("muscle_humanoid", "stand", "Muscle-humanoid-stand"),
    ],
)
def test_id_is_the_usual_name_capitalised(domain, task, env_id):
    assert suite_env_id(domain, task) == env_id
    assert gymnasium.spec(env_id).kwargs == {"domain": domain, "task": task}


def test_register_again_changes_nothing_and_leaves_others_ids_alone():
    ours = dict(gymnasium.registry)
    taken = gymnasium.registry.pop("Dog-run")
    try:
        gymnasium.register("Dog-run", entry_point="somewhere.else:Dog")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            register_envs()
        assert gymnasium.spec("Dog-run").entry_point == "somewhere.else:Dog"
    finally:
        gymnasium.registry["Dog-run"] = taken
    assert dict(gymnasium.registry) == ours


def test_spec_pickles_and_rebuilds_the_same_env():
    spec = pickle.loads(pickle.dumps(gymnasium.make("Walker-walk", action_repeat=4).spec))
    assert spec.max_episode_steps == 500
    env = gymnasium.make(spec)
    assert env.unwrapped.action_repeat == 4
    assert env.spec == spec


def test_misspelled_names_are_answered_with_the_nearest():
    with pytest.raises(gymnasium.error.NameNotFound, match="Cheetah-run"):
        gymnasium.make("Cheeta-run")
    with pytest.raises(ValueError, match="cheetah run"):
        SuiteEnv("cheeta", "run")
    with pytest.raises(ValueError, match="walker walk"):
        SuiteEnv("walker", "walkk")


# --- Spaces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "observation_dim", "action_dim"),
    [
        ("Dog-run", 223, 38),
        ("Humanoid-run", 67, 21),
        ("Humanoid_CMU-run", 137, 56),
        ("Muscle-humanoid-run", 67 + 3 * 152, 152),
        ("Cheetah-run", 17, 6),
        ("Walker-walk", 24, 6),
        ("Quadruped-run", 78, 12),
        ("Manipulator-bring-ball", 44, 5),
        ("Cup-catch", 8, 2),
        ("Cartpole-swingup", 5, 1),
    ],
)
def test_spaces_are_flat_float32_boxes(env_id, observation_dim, action_dim):
    env = gymnasium.make(env_id)
    assert env.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (observation_dim,), np.float32)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)
    env.close()


@pytest.mark.parametrize("env_id", one_per_domain(ALL_IDS))
def test_env_checkers_have_nothing_to_say(env_id):
    env = gymnasium.make(env_id).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # dm_control bounds no observation, so the space must be unbounded too.
        warnings.filterwarnings("ignore", message=".*A Box observation space (min|max)imum value is -?infinity")
        gymnasium_check_env(env, skip_render_check=True)
        sb3_check_env(env, skip_render_check=True)


def test_actions_span_the_actuators_own_ranges():
    env = gymnasium.make("Quadruped-walk").unwrapped
    bounds = env.environment.action_spec()
    env.reset(seed=0)
    middle = (bounds.minimum + bounds.maximum) / 2
    for level, expected in ((-1.0, bounds.minimum), (0.0, middle), (1.0, bounds.maximum)):
        env.step(np.full(12, level, np.float32))
        np.testing.assert_allclose(env.environment.physics.control(), expected)
    assert bounds.maximum.max() > 1.0


def test_an_actuator_without_limits_receives_the_action_itself():
    env = gymnasium.make("Lqr-lqr-6-2").unwrapped
    env.reset(seed=0)
    env.step(np.array([0.5, -1.0], np.float32))
    np.testing.assert_array_equal(env.environment.physics.control(), [0.5, -1.0])


def test_an_action_of_another_shape_is_refused():
    env = gymnasium.make("Cheetah-run").unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"\(1,\).*\(6,\)"):
        env.step(np.zeros(1, np.float32))


# --- Dynamics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", one_per_domain(SUITE_IDS))
def test_an_agent_step_is_two_steps_of_dm_control(env_id):
    n_steps = 3
    env = gymnasium.make(env_id)
    domain, task = env.spec.kwargs["domain"], env.spec.kwargs["task"]
    observations, rewards = rollout(env, seed=7, n_steps=n_steps)
    assert observations.dtype == np.float32
    assert observations.shape[1:] == env.observation_space.shape

    bare = load_bare(domain, task, seed=7)
    # The observations are flattened in dm_control's order of the keys.
    expected_observations = [np.concatenate([np.ravel(value) for value in bare.reset().observation.values()])]
    expected_rewards = []
    low, high = bare.action_spec().minimum, bare.action_spec().maximum
    if domain == "lqr":
        low, high = -np.ones_like(low), np.ones_like(high)
    for action in np.random.default_rng(7).uniform(-1, 1, (n_steps, *low.shape)).astype(np.float32):
        timesteps = [bare.step(low + (action.astype(np.float64) + 1) / 2 * (high - low)) for _ in range(2)]
        expected_rewards.append(timesteps[0].reward + timesteps[1].reward)
        expected_observations.append(np.concatenate([np.ravel(v) for v in timesteps[1].observation.values()]))
    np.testing.assert_allclose(rewards, expected_rewards, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(observations, np.stack(expected_observations), rtol=1e-4, atol=1e-5)
    env.close()


@pytest.mark.parametrize("env_id", one_per_domain(ALL_IDS))
def test_a_seed_decides_the_episode(env_id):
    """In the same environment. The test above shows it for another one."""
    env = gymnasium.make(env_id)
    first, different, again = rollout(env, seed=3), rollout(env, seed=4), rollout(env, seed=3)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], different[0])
    env.close()


def test_seed_is_dm_controls_own():
    bare = import_suite().load("cheetah", "run", task_kwargs={"random": 11})
    expected = np.concatenate(list(bare.reset().observation.values())).astype(np.float32)
    np.testing.assert_array_equal(gymnasium.make("Cheetah-run").reset(seed=11)[0], expected)


def test_reset_without_a_seed_goes_on_with_the_random_stream():
    env, other = gymnasium.make("Reacher-easy"), gymnasium.make("Reacher-easy")
    starts = [env.reset(seed=5)[0], env.reset()[0], env.reset()[0]]
    others = [other.reset(seed=5)[0], other.reset()[0], other.reset()[0]]
    np.testing.assert_array_equal(starts, others)
    assert not np.array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[1], starts[2])


def test_envs_that_were_never_seeded_differ():
    starts = [gymnasium.make(env_id).reset()[0] for env_id in ("Reacher-easy", "Reacher-easy")]
    assert not np.array_equal(*starts)


def test_every_copy_of_a_task_has_the_same_dynamics():
    """dm_control draws lqr's springs from the seed of the constructor, which must be the same for all copies."""
    stiffness = [gymnasium.make("Lqr-lqr-6-2").unwrapped.environment.physics.model.jnt_stiffness for _ in range(2)]
    np.testing.assert_array_equal(*stiffness)


def test_seeds_beyond_32_bits_are_taken():
    env = gymnasium.make("Cheetah-run")
    np.testing.assert_array_equal(env.reset(seed=2**80 + 1)[0], env.reset(seed=2**80 + 1)[0])
    assert not np.array_equal(env.reset(seed=2**80 + 1)[0], env.reset(seed=1)[0])


def test_action_repeat_is_adjustable():
    once, thrice = gymnasium.make("Walker-walk", action_repeat=1), gymnasium.make("Walker-walk", action_repeat=3)
    once.reset(seed=0)
    thrice.reset(seed=0)
    action = np.full(6, 0.3, np.float32)
    rewards = [once.step(action)[1] for _ in range(3)]
    assert thrice.step(action)[1] == pytest.approx(sum(rewards), abs=1e-12)
    with pytest.raises(ValueError, match="action_repeat must be an integer of at least 1, got 0"):
        gymnasium.make("Walker-walk", action_repeat=0)


# --- The end of an episode ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["Cheetah-run", "Pendulum-swingup", "Lqr-lqr-2-1"])
def test_episode_is_truncated_after_500_steps(env_id):
    env = gymnasium.make(env_id)
    assert env.spec.max_episode_steps == gymnasium.spec(env_id).max_episode_steps == 500
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    ends = [env.step(action)[2:4] for _ in range(500)]
    assert ends[:-1] == [(False, False)] * 499
    assert ends[-1] == (False, True)


def test_episode_length_is_adjustable_also_beyond_dm_controls_own_limit():
    env = gymnasium.make("Cartpole-balance", max_episode_steps=600)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(600)]
    assert ends == [(False, False)] * 599 + [(False, True)]


def test_sb3_is_told_of_the_time_limit():
    env = DummyVecEnv([lambda: gymnasium.make("Pendulum-swingup", max_episode_steps=2)])
    env.seed(0)
    env.reset()
    env.step(np.zeros((1, 1), np.float32))
    _, _, dones, infos = env.step(np.zeros((1, 1), np.float32))
    assert dones[0]
    assert infos[0]["TimeLimit.truncated"]
    assert infos[0]["terminal_observation"].shape == (3,)


@pytest.mark.parametrize("at_control_step", [1, 2])
def test_a_task_that_ends_by_itself_terminates(at_control_step):
    """lqr ends with discount 0 when its state is at rest, also in the middle of an agent step."""
    env = gymnasium.make("Lqr-lqr-2-1")
    env.reset(seed=0)
    physics, task = env.unwrapped.environment.physics, env.unwrapped.environment.task
    states = iter([1.0] * (at_control_step - 1) + [0.0])
    physics.state_norm = lambda: next(states)  # a further call would raise StopIteration
    rewards = []
    task.get_reward = lambda physics: rewards.append(1.0) or 1.0
    _, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
    assert (terminated, truncated) == (True, False)
    assert reward == len(rewards) == at_control_step


def test_a_task_that_ends_with_another_discount_truncates():
    env = gymnasium.make("Cheetah-run")
    env.reset(seed=0)
    env.unwrapped.environment.task.get_termination = lambda physics: 1.0
    assert env.step(np.zeros(6, np.float32))[2:4] == (False, True)


# --- Many at once ---------------------------------------------------------------------------------------------------


def test_subproc_vec_env():
    """A spawned process has registered no environment: the pickled spec contains all that it needs."""
    env = SubprocVecEnv([gymnasium.spec("Reacher-easy").make], start_method="spawn")
    try:
        env.seed(9)
        here = gymnasium.make("Reacher-easy")
        np.testing.assert_array_equal(env.reset()[0], here.reset(seed=9)[0])
        action = np.array([0.5, -1.0], np.float32)
        np.testing.assert_array_equal(env.step(action[None])[0][0], here.step(action)[0])
    finally:
        env.close()


def test_close_can_be_called_twice():
    env = gymnasium.make("Cheetah-run").unwrapped
    env.close()
    env.close()


# --- Pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", one_per_domain(ALL_IDS))
def test_render(env_id):
    env = make_rendered(env_id)
    picture = env.render()
    assert picture.shape == (480, 480, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 5
    env.action_space.seed(0)
    for _ in range(10):
        env.step(env.action_space.sample())
    assert not np.array_equal(picture, env.render())
    env.close()


def test_render_size_and_camera_are_adjustable():
    """The size can exceed 640 x 480 pixels, the offscreen buffer of most of dm_control's models."""
    pictures = []
    for camera_id in (0, "back"):
        env = make_rendered("Cheetah-run", width=800, height=600, camera_id=camera_id)
        pictures.append(env.render())
        env.close()
    assert pictures[0].shape == (600, 800, 3)
    assert not np.array_equal(*pictures)


def test_rendering_does_not_change_the_episode():
    env = make_rendered("Fish-swim")
    env.reset(seed=2)
    env.render()
    drawn = env.step(np.ones(5, np.float32))
    plain = gymnasium.make("Fish-swim")
    plain.reset(seed=2)
    np.testing.assert_array_equal(drawn[0], plain.step(np.ones(5, np.float32))[0])
    env.close()


def test_env_checker_renders():
    env = make_rendered("Cheetah-run").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*A Box observation space (min|max)imum value is -?infinity")
        gymnasium_check_env(env)
    env.close()


def test_render_fps_is_the_rate_of_agent_steps_and_each_envs_own():
    cheetah, dog = gymnasium.make("Cheetah-run"), gymnasium.make("Dog-run", action_repeat=1)
    assert cheetah.metadata["render_fps"] == pytest.approx(50)  # 2 steps of 0.01 s
    assert dog.metadata["render_fps"] == pytest.approx(1 / 0.015)
    assert "render_fps" not in DMControlEnv.metadata


def test_an_env_without_a_render_mode_draws_nothing():
    env = SuiteEnv("cheetah", "run")
    env.reset(seed=0)
    assert env.render() is None
    with pytest.raises(ValueError, match='render_mode must be None or "rgb_array", got'):
        SuiteEnv("cheetah", "run", render_mode="ansi")
    with pytest.raises(ValueError, match="width must be an integer of at least 1, got 0"):
        SuiteEnv("cheetah", "run", width=0)


WITHOUT_OPENGL = """
import ctypes, ctypes.util

class Loader(ctypes.CDLL):
    def __init__(self, name=None, *args, **kwargs):
        if any(library in str(name) for library in ("EGL", "OSMesa", "libGL", "OpenGL")):
            raise OSError(f"{name}: cannot open shared object file")
        super().__init__(name, *args, **kwargs)

ctypes.CDLL = Loader
ctypes.cdll = ctypes.LibraryLoader(Loader)
ctypes.util.find_library = lambda name: None

import sys, gymnasium, numpy
import sb3_pwm.envs
sb3_pwm.envs.register_envs()
print("imported by registration:", [name for name in ("dm_control", "mujoco", "OpenGL") if name in sys.modules])
env = gymnasium.make("Cheetah-run", render_mode="rgb_array")  # SB3's make_vec_env always sets this render mode
env.reset(seed=0)
env.step(numpy.zeros(6, numpy.float32))
print("trains")
env.render()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libraries have other names there")
@pytest.mark.parametrize("backend", [None, "egl"])
def test_without_opengl_training_works_and_rendering_says_what_to_install(backend):
    """Registration imports no simulator, since users of other environments need none."""
    environment = {name: value for name, value in os.environ.items() if "DISPLAY" not in name and name != "MUJOCO_GL"}
    environment.pop("PYOPENGL_PLATFORM", None)
    if backend is not None:
        environment["MUJOCO_GL"] = backend
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_OPENGL], capture_output=True, text=True, env=environment, check=False
    )
    assert result.stdout.splitlines() == ["imported by registration: []", "trains"], result.stderr
    assert "apt-get install libegl1" in result.stderr.strip().splitlines()[-1]
