"""The tasks that MT30 adds to dm_control: bodies, initial states, and rewards against numbers worked out by hand."""

import types

import numpy as np
import pytest

from sb3_pwm.envs.rendering import import_suite

import_suite()

from sb3_pwm.envs import custom  # noqa: E402 (after the choice of a graphics library)


def state(**values):
    """A stand-in for the physics. Each method returns the value of its name."""
    return types.SimpleNamespace(**{name: (lambda value=value: value) for name, value in values.items()})


@pytest.mark.parametrize(
    ("velocity", "moving"),
    # The reward is linear in the speed: 1 at the wanted speed, and 0 at rest and in the other direction.
    [(-1.0, 1.0), (-3.0, 1.0), (-0.5, 0.5), (-0.75, 0.75), (0.0, 0.0), (1.0, 0.0)],
)
def test_walk_backwards(velocity, moving):
    task = custom.BackwardsWalker(1.0)
    upright = state(torso_height=1.2, torso_upright=1.0, horizontal_velocity=velocity)
    assert task.get_reward(upright) == pytest.approx((5 * moving + 1) / 6)
    # Upside down at full height, the posture term is 3/4: all of the height's share, nothing of the direction's.
    upside_down = state(torso_height=1.2, torso_upright=-1.0, horizontal_velocity=velocity)
    assert task.get_reward(upside_down) == pytest.approx(0.75 * (5 * moving + 1) / 6)


@pytest.mark.parametrize(("speed", "reward"), [(-8.0, 1.0), (-10.0, 1.0), (-6.0, 0.75), (0.0, 0.0), (8.0, 0.0)])
def test_cheetah_run_backwards(speed, reward):
    assert custom.BackwardsCheetah().get_reward(state(speed=speed)) == pytest.approx(reward)


def cheetah(speed, **heights):
    """A stand-in for the physics of the cheetah, with its speed and the heights of some bodies."""

    class Positions:
        def __getitem__(self, key):
            names, axis = key
            assert axis == "z"
            return np.array([heights[name] for name in names])

    data = types.SimpleNamespace(xpos=Positions())
    return types.SimpleNamespace(speed=lambda: speed, named=types.SimpleNamespace(data=data))


# dm_control's Gaussian tolerance is 0.1 at its margin, which is 0.6 m below the bound of 1.2 m.
@pytest.mark.parametrize(
    ("lifted", "heights", "up"),
    [
        ("bfoot", dict(bfoot=1.2, torso=1.2), 1.0),
        ("bfoot", dict(bfoot=0.6, torso=1.2), (3 * 0.1 + 2) / 5),
        ("ffoot", dict(ffoot=1.2, torso=0.6), (3 + 2 * 0.1) / 5),
    ],
)
@pytest.mark.parametrize(("speed", "running"), [(6.0, 1.0), (3.0, 0.5), (-6.0, 0.0)])
def test_cheetah_on_one_foot(lifted, heights, up, speed, running):
    reward = custom.OneFootCheetah(lifted).get_reward(cheetah(speed, **heights))
    assert reward == pytest.approx(up * (5 * running + 1) / 6)


@pytest.mark.parametrize(
    ("speed", "heights", "reward"),
    [
        (0.0, dict(torso=1.2, ffoot=1.2, bfoot=1.2), 1.0),
        (0.75, dict(torso=1.2, ffoot=1.2, bfoot=1.2), 5.5 / 6),  # half of the speed's margin
        (1.0, dict(torso=1.2, ffoot=1.2, bfoot=1.2), 5 / 6),
        # The mean height of this foot and the torso is at the margin, so half of the height's reward is 0.1.
        (0.0, dict(torso=1.2, ffoot=1.2, bfoot=0.0), (5 * (1 + 0.1) / 2 + 1) / 6),
    ],
)
def test_cheetah_jump(speed, heights, reward):
    assert custom.JumpingCheetah().get_reward(cheetah(speed, **heights)) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("height", "speed", "reward"),
    [(0.6, -1.0, 1.0), (1.0, -2.0, 1.0), (1.0, -0.5, 0.5), (1.0, 0.0, 0.0), (0.59, -1.0, 0.0), (2.1, -1.0, 0.0)],
)
def test_hop_backwards(height, speed, reward):
    assert custom.BackwardsHopper().get_reward(state(height=height, speed=speed)) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("velocity", "reward"), [(9.0, 1.0), (-9.0, 1.0), (4.5, 0.5), (-6.75, 0.75), (0.0, 0.0), (20.0, 1.0)]
)
def test_pendulum_spin(velocity, reward):
    physics = state(angular_velocity=np.array([velocity]))
    assert custom.SpinningPendulum().get_reward(physics) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("inside", "to_target", "velocity", "reward"),
    [
        (0.0, (0.3, 0.4), (0.0, 6.0), 1.0),
        (0.0, (0.0, 0.25), (3.6, 4.8), (0.5 + 2) / 3),
        (0.0, (0.3, 0.4), (0.0, -3.0), (1 + 2 * 0.5) / 3),
        (1.0, (0.3, 0.4), (0.0, 6.0), 0.0),  # no reward for a ball in the cup, at any speed
    ],
)
def test_cup_spin(inside, to_target, velocity, reward):
    class Velocities:
        def __getitem__(self, names):
            return np.array([dict(ball_x=velocity[0], ball_z=velocity[1])[name] for name in names])

    physics = state(in_target=inside, ball_to_target=np.array(to_target))
    physics.named = types.SimpleNamespace(data=types.SimpleNamespace(qvel=Velocities()))
    assert custom.SpinningBall().get_reward(physics) == pytest.approx(reward)


def test_nine_of_ten_balls_start_in_the_cup():
    environment = custom.load("ball_in_cup", "spin", random=0)
    starts = []
    for _ in range(100):
        environment.reset()
        starts.append(bool(environment.physics.in_target()))
        assert environment.physics.data.ncon == 0
    assert 80 <= sum(starts) <= 99


def test_three_link_reacher():
    physics = custom.three_link_reacher()
    model = physics.model
    assert (model.nq, model.nv, model.nu) == (3, 3, 3)
    assert not model.jnt_limited[0]
    np.testing.assert_allclose(np.degrees(model.jnt_range[1:]), [[-80, 80], [-80, 80]])
    np.testing.assert_allclose(model.dof_damping, 0.01)
    np.testing.assert_allclose(model.actuator_gear[:, 0], 0.05)
    # Stretched out, the finger is three links of 9 cm from the shoulder. A right angle at the wrist turns the last one.
    np.testing.assert_allclose(physics.named.data.geom_xpos["finger"], [0.27, 0, 0.01], atol=1e-12)
    with physics.reset_context():
        physics.named.data.qpos["wrist"] = np.pi / 2
    np.testing.assert_allclose(physics.named.data.geom_xpos["finger"], [0.18, 0.09, 0.01], atol=1e-12)
    # Everything else is dm_control's. The masses follow from the volumes of the capsules.
    two_links = import_suite().load("reacher", "easy").physics.model
    assert model.opt.timestep == two_links.opt.timestep
    capsule = {length: np.pi * 0.01**2 * (length + 4 / 3 * 0.01) * 1000 for length in (0.09, 0.1)}
    np.testing.assert_allclose(model.body_mass[1:4], [capsule[0.09], capsule[0.09], capsule[0.1]], rtol=1e-6)


@pytest.mark.parametrize(("task", "size"), [("three_easy", 0.05), ("three_hard", 0.015)])
def test_three_link_reacher_is_rewarded_at_the_target(task, size):
    environment = custom.load("reacher", task, random=0)
    environment.reset()
    physics = environment.physics
    assert physics.named.model.geom_size["target", 0] == size
    for distance, reward in ((size + 0.009, 1.0), (size + 0.011, 0.0)):  # the finger's radius is 1 cm
        with physics.reset_context():
            physics.named.model.geom_pos["target", :2] = (0.27 + distance, 0.0)
        assert environment.task.get_reward(physics) == reward
