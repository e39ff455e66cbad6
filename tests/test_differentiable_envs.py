"""Simulators in torch: physics against MuJoCo and closed forms, gradients, Gymnasium's interface, and SHAC."""

import sys
from functools import partial
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import torch as th
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from torch import nn

from sb3_pwm.envs.differentiable import SIMULATORS, CartpoleSwingup, DoublePendulumSwingup, HopperHop, Simulator
from sb3_pwm.envs.differentiable.double_pendulum import TORQUES as TORQUES_OF_ARMS
from sb3_pwm.envs.differentiable.hopper import (
    DAMPING,
    HEEL,
    MASSES,
    RADIUS,
    ROTOR,
    SHANK,
    THIGH,
    TOE,
    TORQUES,
    TORSO,
)
from sb3_pwm.envs.differentiable.links import GRAVITY
from sb3_pwm.envs.differentiable.simulator import runge_kutta_step
from sb3_pwm.envs.rendering import import_suite
from sb3_pwm.pwm.imagination import imagine, imagined_step
from sb3_pwm.pwm.losses import actor_loss
from sb3_pwm.pwm.networks import Actor
from sb3_pwm.tasks import SIMULATED_TASKS, env_id
from sb3_pwm.world_model import WorldModel, WorldModelConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))  # as for a script that is run there

from shac.agent import Shac, ShacConfig

NAMES = list(SIMULATORS)


def exact(name):
    """:return: A simulator in double precision."""
    return SIMULATORS[name]().double()


def some_states(simulator, n=5, steps=15):
    """:return: States ``(n, S)`` after random steps, in which the hopper touches the ground."""
    generator = th.Generator().manual_seed(3)
    states = simulator.initial_state(n, generator)
    for _ in range(steps):
        actions = 2 * th.rand(n, simulator.action_dim, generator=generator, dtype=states.dtype) - 1
        states = simulator.next(states, actions)
    return states


# --- Physics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "task", "make"),
    [("cartpole", "swingup", CartpoleSwingup), ("acrobot", "swingup", DoublePendulumSwingup)],
)
def test_motion_is_that_of_dm_control(domain, task, make):
    """The same integrator and step as dm_control's, so that only rounding differs."""
    simulator = make().double()
    simulator.substeps = 2
    environment = import_suite().load(domain, task)
    environment.reset()
    physics = environment.physics
    position, velocity = np.array([0.3, 2.0]), np.array([-0.5, 1.5])
    with physics.reset_context():
        physics.data.qpos[:], physics.data.qvel[:] = position, velocity
    # dm_control has the angle of the elbow, and a motor of 2 N m there alone
    to_absolute = np.array([[1.0, 0.0], [1.0, 1.0]]) if domain == "acrobot" else np.eye(2)
    state = th.tensor(np.concatenate([to_absolute @ position, to_absolute @ velocity]))
    for step in range(50):
        control = np.sin(0.3 * step)
        physics.set_control([control])
        physics.step(2)
        action = [0.0, 2.0 * control / TORQUES_OF_ARMS[1]] if domain == "acrobot" else [control]
        state = simulator.next(state, th.tensor(action, dtype=th.float64))
    np.testing.assert_allclose(state[:2], to_absolute @ physics.data.qpos, atol=1e-6)
    np.testing.assert_allclose(state[2:], to_absolute @ physics.data.qvel, atol=1e-6)
    assert np.abs(state[:2].numpy() - to_absolute @ position).max() > 1  # it has moved


@pytest.mark.parametrize(
    ("position", "velocity", "action"),
    [((0.0, 0.0), (0.0, 0.0), 0.0), ((0.9, 2.0), (0.1, -3.0), 0.7), ((-1.5, 0.4), (1.0, 9.0), -1.0)],
)
def test_cartpole_reward_is_that_of_dm_control(position, velocity, action):
    simulator, environment = CartpoleSwingup().double(), import_suite().load("cartpole", "swingup")
    environment.reset()
    physics = environment.physics
    with physics.reset_context():
        physics.data.qpos[:], physics.data.qvel[:] = position, velocity
    physics.set_control([action])
    state, actions = th.tensor([*position, *velocity], dtype=th.float64), th.tensor([action], dtype=th.float64)
    assert simulator.reward(state, actions).item() == pytest.approx(environment.task.get_reward(physics))
    observation = environment.task.get_observation(physics)
    np.testing.assert_allclose(
        simulator.observation(state), np.concatenate([observation["position"], observation["velocity"]])
    )


HOPPER = f"""
<mujoco>
  <option gravity="0 0 -{GRAVITY}"/>
  <default>
    <joint type="hinge" axis="0 1 0" armature="{ROTOR}" damping="{DAMPING}"/><geom type="capsule" size="{RADIUS}"/>
  </default>
  <worldbody>
    <body>
      <joint type="slide" axis="1 0 0" armature="0" damping="0"/>
      <joint type="slide" axis="0 0 1" armature="0" damping="0"/>
      <joint armature="0" damping="0"/>
      <geom fromto="0 0 0 0 0 {TORSO}" mass="{MASSES[0]}"/>
      <body>
        <joint name="hip"/><geom fromto="0 0 0 0 0 -{THIGH}" mass="{MASSES[1]}"/>
        <body pos="0 0 -{THIGH}">
          <joint name="knee"/><geom fromto="0 0 0 0 0 -{SHANK}" mass="{MASSES[2]}"/>
          <body pos="0 0 -{SHANK}">
            <joint name="ankle"/><geom fromto="-{HEEL} 0 0 {TOE} 0 0" mass="{MASSES[3]}"/>
          </body>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="hip" gear="{TORQUES[0]}"/>
    <motor joint="knee" gear="{TORQUES[1]}"/>
    <motor joint="ankle" gear="{TORQUES[2]}"/>
  </actuator>
</mujoco>
"""


def test_hopper_in_the_air_accelerates_as_in_mujoco():
    model = mujoco.MjModel.from_xml_string(HOPPER)
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
    data, simulator, random = mujoco.MjData(model), HopperHop().double(), np.random.default_rng(0)
    # MuJoCo has the angles of torso, hip, knee and ankle, the simulator absolute ones
    to_absolute = np.eye(6)
    to_absolute[2:, 2:] = np.tril(np.ones((4, 4)))
    for _ in range(10):
        data.qpos[:] = [random.normal(), 5.0, *random.uniform([-3, -1.8, 0.0, -1.2], [3, 0.8, 2.4, 0.8])]
        data.qvel[:] = random.normal(size=6, scale=3)
        data.ctrl[:] = random.uniform(-1, 1, 3)
        mujoco.mj_forward(model, data)
        positions = th.tensor(to_absolute @ data.qpos + [0, 0, 0, 0, 0, np.pi / 2])
        found = simulator.accelerations(positions, th.tensor(to_absolute @ data.qvel), th.tensor(data.ctrl))
        np.testing.assert_allclose(found, to_absolute @ data.qacc, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(simulator.joint_angles(positions), data.qpos[3:], atol=1e-6)


def energy_of(masses, inertias, arms, base_mass, positions, velocities):
    """
    Mechanical energy of a chain, from where its links are.

    :param arms: Length of each link, which carries the next one at its end. Centers of mass are in the middle.
    """
    free = positions.shape[-1] - len(masses)
    angles, rates = positions[..., free:], velocities[..., free:]
    joint = th.stack([positions[..., 0] if free else 0 * angles[..., 0], 0 * angles[..., 0]], -1)
    speed = th.stack([velocities[..., 0] if free else 0 * angles[..., 0], 0 * angles[..., 0]], -1)
    energy = 0.5 * base_mass * (speed**2).sum(-1)
    for i, (mass, inertia, arm) in enumerate(zip(masses, inertias, arms, strict=True)):
        along = th.stack([angles[..., i].sin(), angles[..., i].cos()], -1)
        across = rates[..., i : i + 1] * th.stack([angles[..., i].cos(), -angles[..., i].sin()], -1)
        center, center_speed = joint + arm / 2 * along, speed + arm / 2 * across
        energy = energy + 0.5 * mass * (center_speed**2).sum(-1) + 0.5 * inertia * rates[..., i] ** 2
        energy = energy + mass * GRAVITY * center[..., 1]
        joint, speed = joint + arm * along, speed + arm * across
    return energy


@pytest.mark.parametrize("name", NAMES[:2])
def test_energy_is_conserved(name):
    links = exact(name).links
    n = len(links.inertia)
    positions, velocities = th.randn(6, n, dtype=th.float64), 2 * th.randn(6, n, dtype=th.float64)
    inertias = [links.inertia[i, i].item() for i in range(links.free, n)]
    arguments = ([0.1], inertias, [1.0], 1.0) if links.free else ([1.0, 1.0], inertias, [1.0, 1.0], 0.0)
    before, start = energy_of(*arguments, positions, velocities), positions
    for _ in range(2_000):
        positions, velocities = runge_kutta_step(
            lambda p, v: links.accelerations(p, v, th.zeros_like(p)), positions, velocities, 0.002
        )
    th.testing.assert_close(energy_of(*arguments, positions, velocities), before, rtol=1e-5, atol=1e-6)
    assert (positions - start).abs().max() > 3


def center_of(positions):
    """:return: Center of mass of the hopper, link by link from where its joints are."""
    hip, torso, thigh, shank, foot = positions[:2], *(th.stack([a.sin(), a.cos()]) for a in positions[2:])
    knee = hip - THIGH * thigh
    ankle = knee - SHANK * shank
    centers = [hip + TORSO / 2 * torso, (hip + knee) / 2, (knee + ankle) / 2, ankle + (TOE - HEEL) / 2 * foot]
    return sum(mass * center for mass, center in zip(MASSES, centers, strict=True)) / sum(MASSES)


def test_hopper_falls_freely():
    """In the air the center of mass moves on a parabola, whatever the joints do."""
    simulator = exact("torch-hopper-hop")
    state = simulator.initial_state(1, th.Generator().manual_seed(0))[0]
    state[1], state[6], state[7], state[8] = 3.0, 1.5, 2.0, 1.0
    start, (speed,) = center_of(state[:6]), (th.func.jvp(center_of, (state[:6],), (state[6:],))[1],)
    h, seconds = simulator.step_seconds / simulator.substeps, 20 * simulator.step_seconds
    for step in range(20):
        state = simulator.next(state, th.tensor([np.sin(step), np.cos(2 * step), 0.5], dtype=th.float64))
    gravity = th.tensor([0.0, -GRAVITY], dtype=th.float64)
    # The semi-implicit step uses the new velocity, which is ahead by half a step.
    expected = start + speed * seconds + 0.5 * gravity * seconds * (seconds + h)
    th.testing.assert_close(center_of(state[:6]), expected, rtol=0, atol=5e-3)
    velocity = th.func.jvp(center_of, (state[:6],), (state[6:],))[1]
    th.testing.assert_close(velocity, speed + gravity * seconds, rtol=0, atol=2e-2)
    reward = simulator.reward(state, th.zeros(3, dtype=th.float64))
    assert reward.item() == pytest.approx((velocity[0] + state[1] + TORSO * state[2].cos()).item())
    assert simulator.joint_angles(state[:6]).abs().max() > 0.3


def test_ground_carries_the_hopper_that_lies_still():
    simulator = exact("torch-hopper-hop")
    state = simulator.initial_state(1, th.Generator().manual_seed(0))[0]
    still = th.zeros(3, dtype=th.float64)
    for _ in range(300):
        state = simulator.next(state, still)
    assert state[6:].abs().max() < 0.05
    assert state[1] < 0.5
    forces = simulator.ground_forces(state[:6], state[6:])  # (2, P)
    assert forces[1].sum().item() == pytest.approx(GRAVITY * sum(MASSES), rel=0.01)
    assert forces[0].sum().item() == pytest.approx(0.0, abs=2.0)


def test_friction_is_bounded_by_the_push_and_against_the_motion():
    simulator = exact("torch-hopper-hop")
    states = some_states(simulator, n=64, steps=12)
    friction, normal = simulator.ground_forces(*states.chunk(2, -1)).unbind(-2)
    assert (normal >= 0).all()
    assert (normal > 0).any()
    assert (friction.abs() <= normal).all()
    along = simulator.links.point_velocities(simulator.points, *states.chunk(2, -1))[:, 0]
    assert (friction * along <= 0).all()


# --- Functions of tensors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_finite_differences(name):
    simulator = exact(name)
    states = some_states(simulator, n=3)
    actions = (th.rand(3, simulator.action_dim, dtype=th.float64) - 0.5).requires_grad_()
    states = states.detach().requires_grad_()
    assert th.autograd.gradcheck(simulator.next, (states, actions), rtol=1e-3, atol=1e-4)
    assert th.autograd.gradcheck(simulator.reward, (states, actions))
    assert th.autograd.gradcheck(simulator.observation, (states,))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_many_single_states(name):
    simulator = exact(name)
    states = some_states(simulator, n=6)
    actions = th.rand(6, simulator.action_dim, dtype=th.float64)
    for method in (simulator.next, simulator.reward):
        single = th.stack([method(*pair) for pair in zip(states, actions, strict=True)])
        th.testing.assert_close(method(states, actions), single)
        grid = method(states.view(2, 3, -1), actions.view(2, 3, -1))
        th.testing.assert_close(grid.flatten(0, 1), single)
    assert simulator.observation(states).shape == (6, simulator.observation_dim)
    assert simulator.continuation(states).shape == (6,)


@pytest.mark.parametrize("name", NAMES)
def test_rough_treatment_leaves_states_and_gradients_finite(name):
    simulator = SIMULATORS[name]()
    states, size = simulator.initial_state(32), (32, simulator.action_dim)
    for _ in range(200):
        states = simulator.next(states, th.rand(size).sub(0.5).sign())
    assert states.isfinite().all()
    assert states.chunk(2, -1)[1].abs().max() < 200  # m/s and rad/s
    actions = th.rand(size).sub(0.5).sign().requires_grad_()
    for _ in range(16):
        states = simulator.next(states, actions)
    states.sum().backward()
    assert actions.grad.isfinite().all()


def test_the_hopper_has_fallen():
    simulator = SIMULATORS["torch-hopper-hop"]()
    states = simulator.initial_state(3)
    states[1, 1], states[2, 2] = 0.4, -1.7
    assert simulator.continuation(states).tolist() == [1.0, 0.0, 0.0]


# --- Gymnasium ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*Box observation space")
def test_environment(name):
    env = gymnasium.make(env_id(name))
    check_env(env.unwrapped, skip_render_check=True)
    check_env_for_sb3(env, skip_render_check=True)
    assert env.spec.max_episode_steps == 500
    simulator = env.unwrapped.simulator
    first, _ = env.reset(seed=5)
    assert (env.reset(seed=5)[0] == first).all()
    assert (env.reset()[0] != first).any()
    assert (env.reset(seed=6)[0] != first).any()
    state = env.unwrapped.state
    action = np.linspace(-0.5, 2.0, simulator.action_dim, dtype=np.float32)
    clipped = th.from_numpy(action).clamp(max=1.0)
    observation, reward, terminated, truncated, _ = env.step(action)
    np.testing.assert_array_equal(observation, simulator.observation(simulator.next(state, clipped)))
    assert reward == simulator.reward(state, clipped).item()
    assert not terminated
    assert not truncated


def test_episodes_end():
    hopper, pole = gymnasium.make("Torch-hopper-hop"), gymnasium.make("Torch-cartpole-swingup")
    hopper.reset(seed=0)
    ends = [hopper.step(np.array([1.0, -1.0, 1.0], np.float32))[2:4] for _ in range(100)]
    fall = ends.index((True, False))
    assert ends[:fall] == [(False, False)] * fall
    pole.reset(seed=0)
    ends = [pole.step(np.zeros(1, np.float32))[2:4] for _ in range(500)]
    assert ends == [(False, False)] * 499 + [(False, True)]


def test_names():
    assert tuple(SIMULATORS) == SIMULATED_TASKS
    with pytest.raises(ValueError, match="torch-hopper-hop"):
        gymnasium.make("Torch-hopper-hop", task="torch-hoper-hop")


# --- In a world model's place ---------------------------------------------------------------------------------------


def test_a_world_model_and_a_simulator_are_rolled_out_alike():
    """The same function for both: what it returns has the same shapes, but for the size of the latent."""
    simulator = SIMULATORS["torch-hopper-hop"]()
    world_model = WorldModel(WorldModelConfig(observation_dim=11, action_dim=3, latent_dim=16, termination=True))
    noise = th.randn(4, 6, 3)
    for dynamics, start in (
        (world_model, world_model.encode(simulator.observation(simulator.initial_state(6)))),
        (simulator, simulator.initial_state(6)),
    ):
        size = start.shape[-1]
        rollout = imagine(dynamics, Actor(size, 3, [8], nn.SiLU), start, noise, termination=True)
        assert rollout.latents.shape == (5, 6, size)
        assert rollout.actions.shape == (4, 6, 3)
        assert rollout.rewards.shape == rollout.continues.shape == rollout.log_probs.shape == (4, 6)
        loss = actor_loss(rollout, th.zeros(6), *(th.ones(()),) * 3, gamma=0.99)
        assert loss.total.requires_grad


def test_a_rollout_is_what_the_environment_does():
    """Rewards and ends of the rollout of a policy against the Gymnasium environment with the same actions."""
    env = gymnasium.make("Torch-hopper-hop").unwrapped
    env.reset(seed=1)
    actor = Actor(11, 3, [8], nn.SiLU)
    rollout = imagine(
        env.simulator,
        lambda states: actor(env.simulator.observation(states)),
        env.state.unsqueeze(0),
        10.0 * th.randn(30, 1, 3),
        termination=True,
    )
    for step, action in enumerate(rollout.actions[:, 0]):
        _, reward, terminated, _, _ = env.step(action.detach().numpy())
        assert reward == pytest.approx(rollout.rewards[step, 0].item(), abs=1e-3)
        assert terminated == (rollout.continues[step, 0] == 0)
    assert terminated


@pytest.mark.parametrize("name", NAMES)
def test_whole_gradient_of_a_rollout_against_finite_differences(name):
    """With an attached input of the policy, the gradient of the parameters is that of the return."""
    simulator = exact(name)
    actor = Actor(simulator.observation_dim, simulator.action_dim, [4], nn.SiLU).double()
    for parameter in actor.parameters():
        nn.init.normal_(parameter, std=0.5)
    start, noise = some_states(simulator, n=2), th.randn(6, 2, simulator.action_dim, dtype=th.float64)

    def rewards(detach):
        step = partial(imagined_step, detach=detach)
        policy = lambda states: actor(simulator.observation(states))  # noqa: E731
        return imagine(simulator, policy, start, noise, step=step).rewards.sum()

    weights = actor.mean[0].weight
    (whole,) = th.autograd.grad(rewards(detach=False), weights)
    (part,) = th.autograd.grad(rewards(detach=True), weights)
    direction = th.randn_like(weights)
    with th.no_grad():
        weights += 1e-5 * direction
        above = rewards(detach=False)
        weights -= 2e-5 * direction
        numeric = ((above - rewards(detach=False)) / 2e-5).item()
    assert (whole * direction).sum().item() == pytest.approx(numeric, rel=1e-3)
    assert (part * direction).sum().item() != pytest.approx(numeric, rel=1e-3)


# --- SHAC -----------------------------------------------------------------------------------------------------------


class DoubleIntegrator(Simulator):
    """A mass on a line that is to be brought to the origin with little force."""

    observation_dim, action_dim, step_seconds = 2, 1, 0.1

    def accelerations(self, positions, velocities, actions):
        return 2.0 * actions

    def observation(self, states):
        return states

    def reward(self, states, actions, task=None):
        return -(states[..., 0] ** 2 + 0.1 * states[..., 1] ** 2 + 0.2 * actions[..., 0] ** 2)

    def initial_state(self, n, generator=None):
        return 0.5 * th.randn(n, 2, generator=generator)


def test_shac_comes_near_the_optimum_of_a_linear_quadratic_task():
    """Against the optimal gain, from the discrete Riccati equation."""
    h, gamma, steps = 0.1, 0.99, 100
    a, b = np.array([[1.0, h], [0.0, 1.0]]), 2.0 * np.array([[h**2 / 2], [h]])
    q, r, value = np.diag([1.0, 0.1]), np.array([[0.2]]), np.zeros((2, 2))
    for _ in range(1_000):
        gain = np.linalg.solve(r + gamma * b.T @ value @ b, gamma * b.T @ value @ a)
        value = q + gamma * a.T @ value @ (a - b @ gain)
    simulator = DoubleIntegrator()
    agent = Shac(simulator, 64 * 16 * 80, ShacConfig(horizon=16, n_critic_epochs=4), episode_steps=steps)

    def mean_return(act):
        states, total = simulator.initial_state(64, th.Generator().manual_seed(1)), 0.0
        for _ in range(steps):
            actions = act(states)
            total, states = total + simulator.reward(states, actions).mean().item(), simulator.next(states, actions)
        return total

    best = mean_return(lambda states: (-states @ th.tensor(gain.T, dtype=th.float32)).clamp(-1, 1))
    before = mean_return(lambda states: th.from_numpy(agent.predict(states.numpy())[0]))
    while agent.n_steps < agent.total_steps:
        agent.update()
    after = mean_return(lambda states: th.from_numpy(agent.predict(states.numpy())[0]))
    assert before < 5 * best
    assert after > 1.1 * best
