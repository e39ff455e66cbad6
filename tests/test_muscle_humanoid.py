"""The muscle humanoid: mechanics of the muscles, and its tasks compared with dm_control's."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from scipy.linalg import solve_discrete_are
from scripts import load_script

from sb3_pwm.envs import register_envs
from sb3_pwm.envs.rendering import import_suite

import_suite()

from dm_control.suite import humanoid  # noqa: E402

from sb3_pwm.envs import muscle_humanoid  # noqa: E402
from sb3_pwm.envs import muscle_humanoid_expert as balance_expert  # noqa: E402

register_envs()
muscle_anatomy = load_script(Path(__file__).resolve().parent.parent / "tools" / "muscle_anatomy.py")
mirrored, moment_arms = muscle_anatomy.mirrored, muscle_anatomy.moment_arms
BONES, MUSCLES = muscle_humanoid.read_muscles()


@pytest.fixture(scope="module")
def model():
    return muscle_humanoid.build_model(BONES, MUSCLES)


def random_poses(model, n_poses):
    """Random joint angles within their limits, (n_poses, joints)."""
    low, high = model.jnt_range[1:].T
    return np.random.default_rng(1).uniform(low, high, (n_poses, len(low)))


def lengths_in(model, angles):
    data = mujoco.MjData(model)
    data.qpos[7:] = angles
    mujoco.mj_forward(model, data)
    return data.actuator_length.copy()


# --- The model file -------------------------------------------------------------------------------------------------


def test_the_file_is_what_the_script_makes():
    bones, muscles = muscle_anatomy.make()
    assert bones == BONES
    # Lengths and forces depend on floating-point kinematics, which differ in the last digit between machines.
    for made, read in zip(muscles, MUSCLES, strict=True):
        assert made.path == read.path
        assert (made.name, made.joint, made.direction) == (read.name, read.joint, read.direction)
        assert made.force == pytest.approx(read.force, abs=0.11)
        assert made.length_range == pytest.approx(read.length_range, abs=2e-5)


def test_152_muscles_are_the_only_actuators(model):
    assert model.nu == model.na == model.ntendon == len({muscle.name for muscle in MUSCLES}) == 152
    np.testing.assert_array_equal(model.actuator_ctrlrange, np.tile([0.0, 1.0], (152, 1)))
    assert (model.actuator_dyntype == mujoco.mjtDyn.mjDYN_MUSCLE).all()
    np.testing.assert_allclose(model.actuator_lengthrange, [muscle.length_range for muscle in MUSCLES])


def test_the_body_is_dm_controls(model):
    xml, assets = humanoid.get_model_and_assets()
    plain = mujoco.MjModel.from_xml_string(xml, assets)
    np.testing.assert_array_equal(model.body_mass, plain.body_mass)
    np.testing.assert_array_equal(model.body_inertia, plain.body_inertia)
    np.testing.assert_array_equal(model.jnt_range, plain.jnt_range)
    assert model.opt.timestep == plain.opt.timestep
    # The surfaces that muscles slide over collide with nothing.
    assert np.count_nonzero(model.geom_contype) == np.count_nonzero(plain.geom_contype)


# --- Mechanics ------------------------------------------------------------------------------------------------------


def test_left_is_the_mirror_image_of_right(model):
    right, left = MUSCLES[:76], MUSCLES[76:]
    assert [mirrored(muscle) for muscle in right] == list(left)
    names = [model.joint(number).name for number in range(1, model.njnt)]
    turned = ("abdomen_x", "abdomen_z", "ankle_x", "shoulder1", "shoulder2")
    for angles in random_poses(model, 20):
        pose = dict(zip(names, angles, strict=True))
        other = {}
        for name in names:
            side = name.replace("right", "L").replace("left", "right").replace("L", "left")
            other[name] = (-1 if name.endswith(turned) else 1) * pose[side]
        lengths = lengths_in(model, angles)
        reflected = lengths_in(model, np.array([other[name] for name in names]))
        # dm_control's waist is tilted by 0.2 degrees, about the axis that the reflection keeps.
        np.testing.assert_allclose(reflected[76:], lengths[:76], atol=1e-6)
        np.testing.assert_allclose(reflected[:76], lengths[76:], atol=1e-6)


def test_moment_arms_are_the_lengths_derivatives(model):
    data = mujoco.MjData(model)
    for angles in random_poses(model, 3):
        data.qpos[7:] = angles
        arms = moment_arms(model, data)
        for joint in range(len(angles)):
            step = np.zeros_like(angles)
            step[joint] = 1e-5
            slopes = (lengths_in(model, angles + step) - lengths_in(model, angles - step)) / 2e-5
            np.testing.assert_allclose(arms[:, joint], -slopes, atol=1e-5)


def test_every_joint_has_antagonists_wherever_it_stands(model):
    """In 99 of 100 poses, both directions reach a tenth of the motor's torque, and the moment arms have full rank."""
    forces = np.array([muscle.force for muscle in MUSCLES])
    motors = muscle_anatomy.motor_torques()
    wanted = np.array([motors[model.joint(number).name] for number in range(1, model.njnt)])
    data = mujoco.MjData(model)
    torques = []
    for angles in random_poses(model, 500):
        data.qpos[7:] = angles
        arms = moment_arms(model, data)
        assert np.linalg.matrix_rank(arms, tol=1e-3) == 21
        torques.append([forces @ np.maximum(sign * arms, 0.0) / wanted for sign in (1.0, -1.0)])
    weakest = np.quantile(torques, 0.01, axis=0)
    assert weakest.min() > 0.1
    # The mean strength has the order of magnitude of the motors'.
    means = np.mean(torques, axis=0)
    assert means.min() > 1.0
    assert means.max() < 12.0


def test_muscles_stay_within_their_length_ranges(model):
    shortest, longest = model.actuator_lengthrange.T
    lengths = np.array([lengths_in(model, angles) for angles in random_poses(model, 500)])
    shares = (lengths - shortest) / (longest - shortest)
    assert shares.min() > -0.02
    assert shares.max() < 1.02
    assert np.ptp(shares, axis=0).min() > 0.5


def test_a_muscle_pulls_its_joint_its_way():
    model = muscle_humanoid.build_model(BONES, MUSCLES)
    model.opt.gravity[:] = 0.0
    for name, joint in (("right_vastus_lateralis", "right_knee"), ("left_brachialis", "left_elbow")):
        muscle = next(muscle for muscle in MUSCLES if muscle.name == name)
        data = mujoco.MjData(model)
        data.qpos[2] = 5.0
        mujoco.mj_forward(model, data)
        address = model.joint(joint).qposadr[0]
        resting = mujoco.MjData(model)
        resting.qpos[2] = 5.0
        data.ctrl[model.actuator(name).id] = 1.0
        for _ in range(20):
            mujoco.mj_step(model, data)
            mujoco.mj_step(model, resting)
        assert muscle.direction * (data.qpos[address] - resting.qpos[address]) > 0.02


# --- The tasks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["stand", "walk", "run"])
def test_rewards_and_observations_are_dm_controls(task):
    environment = muscle_humanoid.load(task, random=0)
    environment.reset()
    physics, rng = environment.physics, np.random.default_rng(0)
    rewards = []
    for number in range(100):
        if number % 20 == 0:  # a standing body that is pushed
            with physics.reset_context():
                physics.data.qpos[:] = physics.model.ptr.qpos0
                physics.data.qvel[:3] = rng.normal(size=3) * 3
        timestep = environment.step(rng.uniform(size=152))
        rewards.append(timestep.reward)
        assert timestep.reward == pytest.approx(humanoid.Humanoid.get_reward(environment.task, physics), abs=1e-12)
        for name in ("head_height", "extremities", "torso_vertical_orientation", "center_of_mass_velocity"):
            expected = getattr(humanoid.Physics, name)(physics)
            np.testing.assert_allclose(getattr(physics, name)(), expected, atol=1e-12)
    assert max(rewards) > 0.3
    plain = humanoid.Humanoid.get_observation(environment.task, physics)
    assert list(timestep.observation)[:6] == list(plain)
    assert list(timestep.observation)[6:] == ["muscle_lengths", "muscle_velocities", "muscle_activations"]


def test_muscle_state_is_observed():
    env = gymnasium.make("Muscle-humanoid-stand").unwrapped
    env.reset(seed=0)
    for _ in range(30):
        observation = env.step(np.ones(152, np.float32))[0]
    lengths, velocities, activations = np.split(observation[67:], 3)
    assert (activations > 0.95).all()
    before = lengths
    after = env.step(np.ones(152, np.float32))[0][67 : 67 + 152]
    assert np.abs(after - before).max() < 0.5
    assert lengths.min() > -0.3
    assert lengths.max() < 1.3
    env.step(-np.ones(152, np.float32))
    observation = env.step(-np.ones(152, np.float32))[0]
    assert (observation[-152:] < activations).all()
    # Over a physics step, the change of a length is nearly the mean of the velocities at its two ends.
    env.reset(seed=0)
    physics = env.environment.physics
    first, speed = physics.muscle_lengths(), physics.muscle_velocities()
    env.environment.physics.step()
    second, later = physics.muscle_lengths(), physics.muscle_velocities()
    np.testing.assert_allclose((second - first) / 0.005, (speed + later) / 2, atol=0.5)
    assert velocities.shape == (152,)


# --- Balance --------------------------------------------------------------------------------------------------------


@pytest.fixture
def balance():
    env = gymnasium.make("Muscle-humanoid-balance")
    env.reset(seed=0)
    yield env
    env.close()


def put(env, tilt, head_height, legs=0.0):
    """Tilt the torso forward and bend hips and knees, in degrees, and lift the head to a height in meters."""
    physics, half = env.unwrapped.environment.physics, np.radians(tilt) / 2
    with physics.reset_context():
        physics.data.qpos[2] = head_height - 0.19 * np.cos(2 * half)  # the head is 0.19 m above the torso's center
        physics.data.qpos[3:7] = np.cos(half), 0.0, np.sin(half), 0.0
        for joint in ("right_hip_y", "left_hip_y", "right_knee", "left_knee"):
            physics.data.ptr.joint(joint).qpos = -np.radians(legs)


def test_balance_starts_upright_on_the_feet(balance):
    physics = balance.unwrapped.environment.physics
    heights = []
    for seed in range(5):
        balance.reset(seed=seed)
        assert np.abs(physics.data.qpos[7:]).max() <= 0.05
        assert 0.1 < np.abs(physics.data.qvel).max() <= 0.15
        assert not physics.data.act.any()
        assert physics.torso_upright() == 1.0
        # A foot is two capsules of radius 0.027 m. The lowest point is below one of their ends.
        ends = [
            geom.xpos[2] + sign * physics.model.ptr.geom(geom.id).size[1] * geom.xmat[8]
            for geom in (physics.data.ptr.geom(name) for name in muscle_humanoid.FEET)
            for sign in (-1, 1)
        ]
        assert min(ends) == pytest.approx(0.027, abs=1e-6)
        heights.append(physics.head_height())
    assert min(heights) > 1.46
    assert len(set(heights)) == 5


def test_the_perturbation_is_scaled(balance):
    physics, task = balance.unwrapped.environment.physics, balance.unwrapped.environment.task
    task.perturbation = 0.0
    first, second = (balance.reset(seed=seed)[0] for seed in (1, 2))
    np.testing.assert_array_equal(first, second)
    assert not physics.data.qvel.any()
    task.perturbation = 3.0
    balance.reset(seed=1)
    assert 0.1 < np.abs(physics.data.qpos[7:]).max() <= 0.15
    low, high = physics.model.jnt_range[1:].T
    assert (physics.data.qpos[7:] >= low).all()
    assert (physics.data.qpos[7:] <= high).all()


def test_balance_is_rewarded_for_height_uprightness_and_little_effort(balance):
    physics, task = balance.unwrapped.environment.physics, balance.unwrapped.environment.task
    put(balance, tilt=0.0, head_height=1.5)
    assert task.get_reward(physics) == pytest.approx(1.0)
    put(balance, tilt=30.0, head_height=1.285)
    # Half of the way from 1.1 m to 1.47 m; (cos 30 - cos 45) / (1 - cos 45)
    assert task.get_reward(physics) == pytest.approx(0.5 * 0.542582, abs=1e-6)
    physics.data.act[:76] = 1.0  # half of the mean square of all muscles at once, which costs a half
    assert task.get_reward(physics) == pytest.approx(0.5 * 0.542582 * 0.75, abs=1e-6)
    put(balance, tilt=50.0, head_height=1.4)
    assert task.get_reward(physics) == 0.0


@pytest.mark.parametrize(
    ("tilt", "head_height", "legs", "fallen"),
    [(40.0, 1.2, 0.0, False), (50.0, 1.2, 0.0, True), (0.0, 1.16, 80.0, False), (0.0, 1.06, 95.0, True)],
)
def test_the_episode_ends_when_the_body_falls(balance, tilt, head_height, legs, fallen):
    put(balance, tilt, head_height, legs)  # the feet are within a few centimeters of the floor
    assert balance.step(-np.ones(152, np.float32))[2:4] == (fallen, False)


def test_no_constant_action_keeps_the_balance(balance):
    expert = balance_expert.BalanceExpert()
    for action in (-np.ones(152), np.zeros(152), np.ones(152), 2 * expert.excitations - 1):
        balance.reset(seed=0)
        steps = 0
        terminated = False
        while not terminated:
            terminated = balance.step(action.astype(np.float32))[2]
            steps += 1
        assert 3 <= steps < 60


def test_the_expert_keeps_the_balance(balance):
    expert = balance_expert.BalanceExpert()
    observation, _ = balance.reset(seed=0)
    for _ in range(150):
        observation, reward, terminated, _, _ = balance.step(expert(observation))
        assert not terminated
    assert reward > 1.85  # of 2, for two control steps


def test_the_experts_pose_is_an_equilibrium(model):
    pose = balance_expert.standing_pose(model)
    excitations = balance_expert.holding_excitations(model, pose, 0.3)
    pose.act[:] = pose.ctrl[:] = excitations
    start = pose.qpos.copy()
    for _ in range(10):
        mujoco.mj_step(model, pose)
    np.testing.assert_allclose(pose.qpos, start, atol=1e-5)


def test_the_experts_linear_model_predicts_the_simulation(model):
    pose = balance_expert.standing_pose(model)
    excitations = balance_expert.holding_excitations(model, pose, 0.3)
    transition, effect = balance_expert.linearize(model, pose, excitations, 10)

    def simulate(deviation, change):
        """Deviation from the pose after ten steps. The first one is of positions and velocities."""
        data = mujoco.MjData(model)
        data.qpos[:] = pose.qpos
        mujoco.mj_integratePos(model, data.qpos, deviation[: model.nv], 1.0)
        data.qvel[:] = deviation[model.nv : 2 * model.nv]
        data.act[:] = excitations
        data.ctrl[:] = excitations + change
        for _ in range(10):
            mujoco.mj_step(model, data)
        moved = np.zeros(model.nv)
        mujoco.mj_differentiatePos(model, moved, 1.0, pose.qpos, data.qpos)
        return np.concatenate([moved, data.qvel, data.act - excitations])

    rng = np.random.default_rng(0)
    deviation, change = np.zeros(len(transition)), 1e-4 * rng.normal(size=152)
    deviation[: 2 * model.nv] = 1e-6 * rng.normal(size=2 * model.nv)
    parts = np.split(np.arange(len(transition)), [model.nv, 2 * model.nv])
    found, predicted = simulate(deviation, np.zeros(152)), transition @ deviation
    for part in parts[:2]:
        assert np.linalg.norm(predicted[part] - found[part]) < 1e-3 * np.linalg.norm(found[part])
    # Activations rise faster than they fall. The linear model has the mean of the two rates.
    found = (simulate(0.0 * deviation, change) - simulate(0.0 * deviation, -change)) / 2
    predicted = effect @ change
    for part in parts:
        assert np.linalg.norm(predicted[part] - found[part]) < 0.25 * np.linalg.norm(found[part])


def test_lqr_gain_is_that_of_the_algebraic_riccati_equation():
    rng = np.random.default_rng(0)
    transition, effect = 0.6 * rng.normal(size=(4, 4)), rng.normal(size=(4, 2))
    costs = np.diag([1.0, 2.0, 0.5, 0.0])
    assert np.abs(np.linalg.eigvals(transition)).max() > 1.0  # unstable without control
    value = solve_discrete_are(transition, effect, costs, np.eye(2))
    expected = np.linalg.solve(np.eye(2) + effect.T @ value @ effect, effect.T @ value @ transition)
    np.testing.assert_allclose(balance_expert.lqr_gain(transition, effect, costs, 100), expected, atol=1e-9)
