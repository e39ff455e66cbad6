"""Rollouts and losses against numbers that were worked out another way."""

import math

import pytest
import torch as th
from torch import nn

from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.pwm.imagination import (
    advantage_weights,
    critic_loss,
    discount_weights,
    imagine,
    imagined_outcomes,
    imagined_return,
    imagined_step,
    squashed_action,
    squashed_log_prob,
    td_lambda_returns,
)
from sb3_pwm.pwm.policies import Actor
from sb3_pwm.world_model import WorldModel, WorldModelConfig
from sb3_pwm.world_model.losses import prediction_errors, world_model_loss

REWARDS = th.tensor([[1.0], [2.0], [3.0]])
NEXT_VALUES = th.tensor([[10.0], [20.0], [30.0]])
CONTINUES = th.tensor([[1.0], [0.5], [1.0]])


@pytest.mark.parametrize(
    ("td_lambda", "expected"),
    [
        # gamma 0.9. lambda 0: r + 0.9 c V
        (0.0, [1 + 0.9 * 10, 2 + 0.9 * 0.5 * 20, 3 + 0.9 * 30]),
        # lambda 1: the discounted sum; from the back 30, then 2 + 0.45 * 30 = 15.5, then 1 + 0.9 * 15.5 = 14.95
        (1.0, [14.95, 15.5, 30.0]),
        # lambda 0.5: 30, then 2 + 0.45 * (10 + 15) = 13.25, then 1 + 0.9 * (5 + 6.625) = 11.4625
        (0.5, [11.4625, 13.25, 30.0]),
    ],
)
def test_td_lambda_by_hand(td_lambda, expected):
    targets = td_lambda_returns(REWARDS, CONTINUES, NEXT_VALUES, gamma=0.9, td_lambda=td_lambda)
    th.testing.assert_close(targets.squeeze(-1), th.tensor(expected))


def test_td_lambda_of_each_step_stops_at_an_episode_end_by_hand():
    # gamma 0.9, lambda 1, the episode cut off after the second step: it bootstraps from its own next value of 20
    lambdas = th.tensor([[1.0], [0.0], [1.0]])
    targets = td_lambda_returns(REWARDS, th.ones(3, 1), NEXT_VALUES, gamma=0.9, td_lambda=lambdas)
    second = 2 + 0.9 * 20
    th.testing.assert_close(targets.squeeze(-1), th.tensor([1 + 0.9 * second, second, 3 + 0.9 * 30]))


def test_discount_weights_and_return_by_hand():
    weights = discount_weights(CONTINUES, gamma=0.9)
    th.testing.assert_close(weights.squeeze(-1), th.tensor([1.0, 0.9, 0.405, 0.3645]))
    value = imagined_return(REWARDS, CONTINUES, NEXT_VALUES[-1], gamma=0.9)
    th.testing.assert_close(value, th.tensor([1.0 + 0.9 * 2.0 + 0.405 * 3.0 + 0.3645 * 30.0]))


def test_return_of_first_state_is_td_lambda_one():
    value = imagined_return(REWARDS, CONTINUES, NEXT_VALUES[-1], gamma=0.97)
    targets = td_lambda_returns(REWARDS, CONTINUES, NEXT_VALUES, gamma=0.97, td_lambda=1.0)
    th.testing.assert_close(value, targets[0])


def test_critic_loss_by_hand():
    values = th.tensor([[1.0, 2.0], [0.0, 0.0]])  # two members, two states
    loss = critic_loss(values, th.tensor([2.0, 4.0]), th.tensor([1.0, 0.5]))
    assert loss.item() == pytest.approx((1.0 + 0.5 * 4.0) / 2 + (4.0 + 0.5 * 16.0) / 2)


def test_advantage_weights_by_hand():
    advantages = th.tensor([1.0, 3.0, 2.0, 500.0])
    mask = th.tensor([1.0, 1.0, 1.0, 0.0])
    # Mean 2 and standard deviation sqrt(2/3) of the three that count
    raw = [math.exp(x / (0.5 * math.sqrt(2 / 3))) for x in (-1.0, 1.0, 0.0)]
    expected = [*(3 * value / sum(raw) for value in raw), 0.0]
    assert advantage_weights(advantages, mask, 0.5).tolist() == pytest.approx(expected)
    assert advantage_weights(advantages, mask, math.inf).tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0])
    # Units do not matter, and a maximum bounds what one step counts
    assert advantage_weights(1e3 * advantages + 7.0, mask, 0.5).tolist() == pytest.approx(expected, rel=1e-3)
    bounded = [*(3 * min(value, 2.0) / sum(min(v, 2.0) for v in raw) for value in raw), 0.0]
    assert advantage_weights(advantages, mask, 0.5, maximum=2.0).tolist() == pytest.approx(bounded)
    # All alike, or none that counts: finite
    assert advantage_weights(th.ones(3), th.ones(3), 1.0).tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert advantage_weights(th.ones(3), th.zeros(3), 1.0).tolist() == [0.0, 0.0, 0.0]


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
