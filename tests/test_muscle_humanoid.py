"""The muscle humanoid: mechanics of the muscles, and its tasks compared with dm_control's."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from scripts import load_script

from sb3_pwm.envs import register_envs
from sb3_pwm.envs.rendering import import_suite

import_suite()

from dm_control.suite import humanoid  # noqa: E402

from sb3_pwm.envs import muscle_humanoid  # noqa: E402

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
