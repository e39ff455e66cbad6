"""The landscapes: their mathematics on cases that are known, and each script with small numbers."""

from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from scripts import load_script, run_script_here
from torch import nn

from sb3_pwm.envs.differentiable import DoublePendulumSwingup
from sb3_pwm.pwm.networks import Actor

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "landscapes"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the examples are not beside the tests")


@pytest.fixture(scope="module")
def noise_script():
    return load_script(FOLDER / "gradient_noise.py")


class LinearQuadratic:
    """``z' = z + u``, with the reward ``-z'^2``. Actions are ``tanh(u)``."""

    def next(self, latents, actions, task=None):
        return latents + actions.atanh()

    def reward(self, latents, actions, task=None):
        return -((latents + actions.atanh()) ** 2).sum(-1)

    def continuation(self, latents, task=None):
        return th.ones_like(latents[..., 0])


class LinearPolicy(nn.Module):
    """``u = k z + sigma noise``, with the parameter k."""

    def __init__(self, gain, sigma):
        super().__init__()
        self.gain = nn.Parameter(th.tensor(gain, dtype=th.float64))
        self.log_std = th.tensor(sigma, dtype=th.float64).log()

    def forward(self, latents):
        return self.gain * latents, self.log_std.expand_as(latents)


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_of_a_linear_quadratic_system(noise_script, detach):
    k, sigma, gamma = -0.3, 0.2, 0.9
    z0, noise = th.randn(50, 1, dtype=th.float64), 0.5 * th.randn(2, 50, 1, dtype=th.float64)
    gradients = noise_script.sample_gradients(
        LinearQuadratic(), LinearPolicy(k, sigma), lambda z: z, z0, noise, (1, 2), detach, gamma
    )
    # By hand: r_0 = -z1^2 and r_1 = -z2^2, with dz1/dk = z0, and dz2/dk that adds what the policy does and sees.
    z1 = z0 + k * z0 + sigma * noise[0]
    z2 = z1 + k * z1 + sigma * noise[1]
    through_input = 0.0 if detach else k * z0
    first = -2.0 * z1 * z0
    second = -2.0 * z2 * (z0 + z1 + through_input)
    th.testing.assert_close(gradients[1], first)
    th.testing.assert_close(gradients[2], first + gamma * second)


def test_noise_of_a_linear_quadratic_system(noise_script):
    """With one step from z, the gradient is -2 z ((1 + k) z + sigma noise), whose mean and variance are known."""
    k, sigma, z, n = -0.3, 0.5, 0.7, 200
    noise = th.randn(1, n, 1, dtype=th.float64)
    noise = (noise - noise.mean()) / noise.std()
    start = th.full((n, 1), z, dtype=th.float64)
    gradients = noise_script.sample_gradients(
        LinearQuadratic(), LinearPolicy(k, sigma), lambda z: z, start, noise, (1,)
    )
    statistics = noise_script.gradient_noise(gradients[1])
    assert float(statistics.mean) == pytest.approx(-2.0 * (1.0 + k) * z**2)
    assert statistics.variance == pytest.approx(4.0 * z**2 * sigma**2)
    assert statistics.esnr == pytest.approx((1.0 + k) ** 2 * z**2 / sigma**2 - 1.0 / n)


def test_the_ratio_of_pure_noise_is_zero_on_average(noise_script):
    """The square of the mean of 8 samples is an eighth of the variance."""
    samples = th.randn(2_000, 8, 3, generator=th.Generator().manual_seed(0))
    ratios = th.tensor([noise_script.gradient_noise(sample).esnr for sample in samples])
    assert abs(float(ratios.mean())) < 0.02


def test_a_perfect_model_has_the_true_gradients(noise_script):
    """A world model whose latents are the simulator's states has the gradients of the simulator."""
    th.manual_seed(0)
    simulator = DoublePendulumSwingup().double()

    def encode(observations):
        cos, sin, velocities = observations.chunk(3, -1)
        return th.cat([th.atan2(sin, cos), velocities], -1)

    perfect = SimpleNamespace(
        encode=encode, next=simulator.next, reward=simulator.reward, config=SimpleNamespace(latent_dim=4)
    )
    actor = Actor(6, 2, (8,), nn.SiLU).double()
    states = simulator.initial_state(5) + 0.5 * th.randn(5, 4)
    noise = th.randn(8, 5, 2).double()
    followed = noise_script.Followed(simulator, perfect)
    ours = noise_script.sample_gradients(followed, actor, followed.look, followed.start(states), noise, (8,))
    theirs = noise_script.sample_gradients(simulator, actor, simulator.observation, states, noise, (8,))
    assert theirs[8].abs().max() > 1e-4
    th.testing.assert_close(ours[8], theirs[8])


def test_gradient_noise(tmp_path):
    sizes = ["--episodes", 2, "--policy-updates", 1, "--updates", 3, "--rollouts", 4]
    output = run_script_here(FOLDER / "gradient_noise.py", *sizes, "--out", tmp_path / "new" / "a.png", folder=tmp_path)
    assert output.count("H 16 without SimNorm") == 2  # for each policy
    assert (tmp_path / "new" / "a.png").stat().st_size > 10_000


def test_both_gradients_of_a_linear_quadratic_system():
    """In expectation, score-function gradients are the derivative of the expected return, worked out by hand."""
    script = load_script(FOLDER / "action_dimensions.py")
    k, sigma, gamma, z = -0.3, 0.2, 0.9, 1.5
    policy = SimpleNamespace(
        world_model=LinearQuadratic(),
        actor=LinearPolicy(k, sigma),
        critic_target=lambda latents: th.zeros(1, *latents.shape[:-1]).double(),
        reward_scale=SimpleNamespace(value=2.0),
    )
    model = SimpleNamespace(policy=policy, gamma=gamma)
    start = th.full((200_000, 1), z, dtype=th.float64)
    noise = th.randn(2, len(start), 1, generator=th.Generator().manual_seed(0)).double()
    one_step, two_steps = (
        -2 * (1 + k) * z**2,
        -2 * (1 + k) * z**2 - gamma * (4 * (1 + k) ** 3 * z**2 + 2 * (1 + k) * sigma**2),
    )
    for horizon, expected in ((1, one_step), (2, two_steps)):
        first_order, score_function = script.gradients_of(model, start, noise[:horizon])
        assert float(score_function.mean()) == pytest.approx(expected / 2.0, rel=0.03)
        if horizon == 1:  # beyond, PWM's does not pass through the policy's input
            assert float(first_order.mean()) == pytest.approx(expected / 2.0, rel=0.01)
    parts = script.MeanAndVariance()
    for part in first_order.split(60_000):
        parts.add(part)
    moments = parts.moments()
    assert moments.variance == pytest.approx(float(first_order.var()))
    assert moments.norm == pytest.approx(abs(float(first_order.mean())), rel=1e-3)


def test_action_dimensions(tmp_path):
    sizes = ["--tasks", "Cartpole-balance", "--steps", 30, "--learning-starts", 20, "--rollouts", 128]
    picture = tmp_path / "new" / "a.png"
    output = run_script_here(FOLDER / "action_dimensions.py", *sizes, "--out", picture, folder=tmp_path)
    assert "Cartpole-balance             1" in output
    assert picture.stat().st_size > 10_000


@pytest.fixture(scope="module")
def slice_script():
    return load_script(FOLDER / "return_slices.py")


def test_directions_are_as_long_as_the_filters(slice_script):
    network = nn.Sequential(nn.Linear(5, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    direction = slice_script.filter_normalized_direction(network)
    parameters = dict(network.named_parameters())
    for name in ("0.weight", "2.weight"):
        th.testing.assert_close(direction[name].norm(dim=-1), parameters[name].norm(dim=-1).detach())
        assert not th.allclose(direction[name], parameters[name])
    assert not any(direction[name].any() for name in ("0.bias", "1.weight", "1.bias", "2.bias"))


def test_slice_of_a_quadratic(slice_script):
    """The objective ``-|w - w0|^2`` along orthogonal directions is a paraboloid, which is known at each point."""
    center, first = {"w": th.tensor([1.0, 2.0])}, {"w": th.tensor([2.0, 0.0])}
    second, steps = {"w": th.tensor([0.0, 3.0])}, np.linspace(-1.0, 1.0, 5)

    def objective(parameters):
        return -float(((parameters["w"] - center["w"]) ** 2).sum())

    values = slice_script.slice_of(objective, center, (first, second), steps)
    expected = -4.0 * steps[:, None] ** 2 - 9.0 * steps[None, :] ** 2
    np.testing.assert_allclose(values, expected)
    assert slice_script.n_local_maxima(values) == 1
    # Steps of 0.5: the second differences are -2 * 4 * 0.25 and -2 * 9 * 0.25, the range is 13.
    assert slice_script.roughness(values) == pytest.approx((2.0 + 4.5) / 2.0 / 13.0)


def test_roughness_and_maxima_of_planes_and_bumps(slice_script):
    plane = np.add.outer(np.arange(6.0), 2.0 * np.arange(6.0))
    assert slice_script.roughness(plane) == pytest.approx(0.0)
    assert slice_script.n_local_maxima(plane) == 1  # its highest corner
    bumps = plane.copy()
    bumps[1, 1] += 10.0
    bumps[3, 4] += 10.0
    assert slice_script.n_local_maxima(bumps) == 3
    assert slice_script.roughness(bumps) > 0.05


def test_a_state_of_the_simulator_is_restored(slice_script):
    """From a stored state, the same actions have the same rewards and observations."""
    env = gym.make("Walker-walk").unwrapped
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (15, *env.action_space.shape))
    for action in actions[:5]:
        observation = env.step(action)[0]
    state = env.environment.physics.get_state()
    np.testing.assert_allclose(slice_script.set_state(env, state), observation, atol=1e-6)
    first = [env.step(action)[:2] for action in actions[5:]]
    slice_script.set_state(env, state)
    for action, (observation, reward) in zip(actions[5:], first, strict=True):
        repeated = env.step(action)
        np.testing.assert_array_equal(repeated[0], observation)
        assert repeated[1] == reward


def test_return_slices(tmp_path):
    sizes = ["--steps", 110, "--starts", 1, "--horizon", 2, "--grid", 3]
    output = run_script_here(FOLDER / "return_slices.py", *sizes, "--out", tmp_path / "new" / "b.png", folder=tmp_path)
    assert output.count("roughness") == 4
    assert (tmp_path / "new" / "b.png").stat().st_size > 10_000
