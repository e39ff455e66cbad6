"""Imagined rollouts against numbers that were worked out another way."""

import math

import pytest
import torch as th
from torch import nn

from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.pwm.imagination import imagine, imagined_outcomes, imagined_step
from sb3_pwm.pwm.losses import imagined_return
from sb3_pwm.pwm.networks import Actor, squashed_action, squashed_log_prob
from sb3_pwm.world_model import WorldModel, WorldModelConfig
from sb3_pwm.world_model.losses import prediction_errors, world_model_loss


def test_squashed_action_density_matches_torch_distributions():
    mean, log_std, noise = th.randn(5, 3), 0.3 * th.randn(5, 3), th.randn(5, 3)
    action, log_prob = squashed_action(mean, log_std, noise), squashed_log_prob(mean, log_std, noise)
    normal = th.distributions.Normal(mean, log_std.exp())
    squashed = th.distributions.TransformedDistribution(normal, th.distributions.TanhTransform(cache_size=1))
    th.testing.assert_close(log_prob, squashed.log_prob(action).sum(-1), atol=1e-3, rtol=1e-3)


def test_squashed_action_density_is_finite_when_saturated():
    log_prob = squashed_log_prob(th.full((1, 2), 40.0), th.zeros(1, 2), th.zeros(1, 2))
    # log(1 - tanh(u)^2) tends to 2 (log 2 - u)
    expected = 2 * (-0.5 * math.log(2 * math.pi) - 2.0 * (math.log(2.0) - 40.0))
    assert log_prob.item() == pytest.approx(expected)


@pytest.fixture
def tiny():
    """A world model and an actor small enough for finite differences, in double precision."""
    th.manual_seed(0)
    config = WorldModelConfig(
        observation_dim=3,
        action_dim=2,
        latent_dim=8,
        encoder_dim=8,
        mlp_dim=8,
        simnorm_dim=4,
        termination=True,
        num_bins=11,
    )
    world_model = WorldModel(config).double()
    for parameter in world_model.parameters():  # the zero output layers would hide the reward's gradient
        nn.init.normal_(parameter, std=0.5)
    actor = Actor(8, 2, [6], nn.SiLU).double()
    for parameter in actor.parameters():
        nn.init.normal_(parameter, std=0.5)
    value = nn.Linear(8, 1).double()
    return world_model, actor, value


def test_rollout_gradient_against_finite_differences(tiny):
    world_model, actor, value = tiny
    horizon, batch = 4, 3
    noise = th.randn(horizon, batch, 2, dtype=th.float64)
    start = world_model.encode(th.randn(batch, 3, dtype=th.float64)).detach()

    def objective(policy) -> th.Tensor:
        rollout = imagine(world_model, policy, start, noise, termination=True)
        returns = imagined_return(rollout.rewards, rollout.continues, value(rollout.latents[-1]).squeeze(-1), 0.99)
        return returns.mean() - 0.1 * rollout.log_probs.mean()

    seen: list[th.Tensor] = []

    def recording(latents):
        seen.append(latents)
        return actor(latents)

    parameters = list(actor.parameters())
    gradients = th.autograd.grad(objective(recording), parameters)

    # The policy's input is held fixed by definition of the gradient: replay the inputs of the unperturbed rollout.
    def replayed() -> float:
        inputs = iter(seen)
        with th.no_grad():
            return objective(lambda _: actor(next(inputs))).item()

    epsilon, checked = 1e-5, 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat, flat_gradient = parameter.data.view(-1), gradient.reshape(-1)
        for i in range(flat.numel()):
            original = flat[i].item()
            flat[i] = original + epsilon
            above = replayed()
            flat[i] = original - epsilon
            below = replayed()
            flat[i] = original
            assert flat_gradient[i].item() == pytest.approx((above - below) / (2 * epsilon), rel=1e-4, abs=1e-8)
            checked += flat_gradient[i].abs().item() > 1e-6
    assert checked > 20  # the comparison is not between zeros


def test_policy_input_is_detached(tiny):
    world_model, actor, _ = tiny
    start = world_model.encode(th.randn(2, 3, dtype=th.float64)).detach()
    inputs: list[th.Tensor] = []

    def spying(latents):
        inputs.append(latents)
        return actor(latents)

    rollout = imagine(world_model, spying, start, th.randn(3, 2, 2, dtype=th.float64))
    assert not any(latents.requires_grad for latents in inputs)
    assert rollout.latents[-1].requires_grad


def test_gradient_passes_through_the_dynamics(tiny):
    """A policy that acts only in the first step still moves the last latent; finite differences say by how much."""
    world_model, _, _ = tiny
    start = world_model.encode(th.randn(1, 3, dtype=th.float64)).detach()
    mean = th.tensor([[0.2, -0.4]], dtype=th.float64, requires_grad=True)
    still = th.zeros(1, 2, dtype=th.float64)

    def last_latent(first: th.Tensor) -> th.Tensor:
        means = iter([first, still, still])
        rollout = imagine(world_model, lambda _: (next(means), still), start, th.zeros(3, 1, 2, dtype=th.float64))
        return rollout.latents[-1][0, 0]

    (gradient,) = th.autograd.grad(last_latent(mean), mean)
    step = th.tensor([[1e-5, 0.0]], dtype=th.float64)
    numeric = (last_latent(mean + step) - last_latent(mean - step)) / 2e-5
    assert gradient[0, 0].item() == pytest.approx(numeric.item(), rel=1e-4)
    assert abs(numeric.item()) > 1e-8


def test_shapes_and_no_termination(tiny):
    world_model, actor, _ = tiny
    start = world_model.encode(th.randn(5, 3, dtype=th.float64))
    rollout = imagine(world_model, actor, start, th.randn(4, 5, 2, dtype=th.float64), termination=False)
    assert rollout.latents.shape == (5, 5, 8)
    assert rollout.actions.shape == (4, 5, 2)
    assert rollout.rewards.shape == rollout.continues.shape == rollout.log_probs.shape == (4, 5)
    assert (rollout.continues == 1).all()
    assert rollout.actions.abs().max() < 1


def test_compiled_parts_compute_the_same_rollout_and_loss():
    """The parts that are compiled where a whole rollout is too long for one graph."""
    th.manual_seed(0)
    world_model = WorldModel(
        WorldModelConfig(observation_dim=3, action_dim=2, latent_dim=16, encoder_dim=8, mlp_dim=8, termination=True)
    )
    actor = Actor(16, 2, [8], nn.Mish)
    noise, start = th.randn(6, 4, 2), world_model.encode(th.randn(4, 3)).detach()
    batch = SequenceBatch(
        th.randn(7, 4, 3),
        th.rand(6, 4, 2),
        th.randn(6, 4),
        (th.rand(6, 4) < 0.2).float(),
        (th.rand(6, 4) < 0.9).float(),
    )

    def gradients(compiled):
        def part(function):
            return th.compile(function, dynamic=False) if compiled else function

        rollout = imagine(
            world_model, actor, start, noise, None, True, step=part(imagined_step), outcomes=part(imagined_outcomes)
        )
        loss = world_model_loss(world_model, batch, step=part(WorldModel.next), errors=part(prediction_errors)).total
        total = rollout.rewards.sum() + rollout.continues.sum() + rollout.log_probs.sum() + loss
        named = [*world_model.named_parameters(), *actor.named_parameters()]
        return total, dict(
            zip([name for name, _ in named], th.autograd.grad(total, [p for _, p in named]), strict=True)
        )

    (plain_total, plain), (total, compiled) = gradients(False), gradients(True)
    th.testing.assert_close(total, plain_total)
    for name, value in plain.items():
        th.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-5, msg=name)
