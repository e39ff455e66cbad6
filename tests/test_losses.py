"""Losses of actor, critics and entropy coefficient against numbers that were worked out by hand."""

import copy
import math

import pytest
import torch as th
from torch import nn

from sb3_pwm.data.types import Outcome, SequenceBatch
from sb3_pwm.pwm.imagination import LatentRollout, imagine
from sb3_pwm.pwm.losses import (
    CriticTargets,
    ReplayedStates,
    actor_loss,
    advantage_weights,
    behavior_loss,
    choose_states,
    critic_loss,
    discount_weights,
    ent_coef_loss,
    imagined_return,
    imagined_targets,
    join_targets,
    of_replayed,
    replayed_targets,
    td_lambda_returns,
)
from sb3_pwm.pwm.networks import Actor
from sb3_pwm.pwm.optimizers import averaging_coefficient, step
from sb3_pwm.pwm.phase import OFFLINE, OFFLINE_TO_ONLINE, ONLINE, PHASE_ARGUMENTS, Phase, current_phase, parse_bc_coef
from sb3_pwm.world_model import WorldModel, WorldModelConfig

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


def test_the_value_that_minimizes_the_critic_loss_is_the_expectile():
    """Targets 0, 1 and 5 of one state: v = sum(w x) / sum(w), with the weight 0.8 above v and 0.2 below it."""
    targets, value = th.tensor([0.0, 1.0, 5.0]), th.zeros(1, 1, requires_grad=True)
    optimizer = th.optim.SGD([value], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        critic_loss(value.expand(1, 3), targets, th.ones(3), th.full((3,), 0.8)).backward()
        optimizer.step()
    expectile = (0.2 * 0.0 + 0.2 * 1.0 + 0.8 * 5.0) / 1.2
    assert value.item() == pytest.approx(expectile, abs=1e-4)
    mean = critic_loss(value.detach().expand(1, 3), targets, th.ones(3))
    assert mean.item() == pytest.approx(((targets - expectile) ** 2).mean().item(), rel=1e-4)


def test_advantage_weights_by_hand():
    advantages, mask = th.tensor([-1.0, 3.0, 2.0, 500.0]), th.tensor([1.0, 1.0, 1.0, 0.0])
    # Mean 4/3 of the three that count, and variance (49 + 25 + 4) / 27
    low = math.exp(-1.0 / (0.5 * math.sqrt(26 / 9)))
    expected = [*(3 * value / (low + 2) for value in (low, 1.0, 1.0)), 0.0]
    assert advantage_weights(advantages, mask, 0.5).tolist() == pytest.approx(expected)
    assert advantage_weights(1e3 * advantages, mask, 0.5).tolist() == pytest.approx(expected)  # units do not matter
    assert advantage_weights(advantages, mask, math.inf).tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0])
    # All worse than expected: the best of the three is what the others are measured by
    low, middle = (math.exp(-x / (0.5 * math.sqrt(26 / 9))) for x in (4.0, 1.0))
    expected = [*(3 * value / (low + middle + 1) for value in (low, 1.0, middle)), 0.0]
    assert advantage_weights(advantages - 10.0, mask, 0.5).tolist() == pytest.approx(expected, rel=1e-5)
    # All alike, or none that counts: finite
    assert advantage_weights(th.ones(3), th.ones(3), 1.0).tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert advantage_weights(th.ones(3), th.zeros(3), 1.0).tolist() == [0.0, 0.0, 0.0]


def test_at_least_a_fifth_of_the_steps_have_the_largest_weight():
    advantages = th.arange(20.0)[th.randperm(20, generator=th.Generator().manual_seed(0))]
    for offset, number in ((-100.0, 4), (-18.5, 4), (-9.5, 10), (5.0, 20)):
        weights = advantage_weights(advantages + offset, th.ones(20), 0.1)
        assert (weights == weights.max()).sum() == number
    # One lucky step among many does not count for more than the others
    lucky = th.cat([th.zeros(50), th.ones(49), th.tensor([1e4])]) - 0.5
    weights = advantage_weights(lucky, th.ones(100), 0.2)
    assert weights[-1].item() == weights[60].item()


def rollout_by_hand() -> LatentRollout:
    """Two steps of two rollouts; the first episode ends with probability 1/2 after its first step."""
    return LatentRollout(
        latents=th.arange(6.0).reshape(3, 2, 1),
        actions=th.zeros(2, 2, 1),
        rewards=th.tensor([[2.0, 4.0], [6.0, 8.0]]),
        continues=th.tensor([[0.5, 1.0], [1.0, 1.0]]),
        log_probs=th.tensor([[-1.0, -2.0], [-3.0, -4.0]]),
    )


def test_actor_loss_by_hand():
    # Rewards in units of 2: 1, 2 and 3, 4. gamma 0.5, final values 8 and 16.
    loss = actor_loss(
        rollout_by_hand(), th.tensor([8.0, 16.0]), th.tensor(2.0), th.tensor(4.0), th.tensor(0.1), gamma=0.5
    )
    returns = [1 + 0.25 * 3 + 0.125 * 8, 2 + 0.5 * 4 + 0.25 * 16]
    log_prob = (-1 - 2 - 0.5 * 3 - 4) / 4  # the second step of the first rollout is reached with probability 1/2
    assert loss.returns.tolist() == pytest.approx(returns)
    assert loss.log_prob.item() == pytest.approx(log_prob)
    assert loss.total.item() == pytest.approx(-sum(returns) / 2 / 4 + 0.1 * log_prob)
    # A return scale below 1 does not blow the loss up
    small = actor_loss(
        rollout_by_hand(), th.tensor([8.0, 16.0]), th.tensor(2.0), th.tensor(0.1), th.tensor(0.0), gamma=0.5
    )
    assert small.total.item() == pytest.approx(-sum(returns) / 2)


def test_imagined_targets_by_hand():
    targets = imagined_targets(
        rollout_by_hand(), th.tensor([[10.0, 20.0], [8.0, 16.0]]), th.tensor(2.0), gamma=0.5, td_lambda=1.0
    )
    last = [3 + 0.5 * 8, 4 + 0.5 * 16]
    assert targets.targets.tolist() == pytest.approx([1 + 0.25 * last[0], 2 + 0.5 * last[1], *last])
    assert targets.weights.tolist() == pytest.approx([1.0, 1.0, 0.5, 1.0])
    assert targets.latents.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_replayed_targets_by_hand():
    """The first of two sequences is cut off after its first step, the second terminates with its last."""
    batch = SequenceBatch(
        observations=th.zeros(3, 2, 1),
        actions=th.zeros(2, 2, 1),
        rewards=th.tensor([[2.0, 4.0], [6.0, 8.0]]),
        terminations=th.tensor([[0.0, 0.0], [0.0, 1.0]]),
        mask=th.tensor([[1.0, 1.0], [0.0, 1.0]]),
    )
    values = th.tensor([[0.0, 0.0], [10.0, 20.0], [30.0, 40.0]])
    states = replayed_targets(th.zeros(3, 2, 4), values, batch, th.tensor(2.0), gamma=0.5, td_lambda=1.0)
    # Cut off: 1 + 0.5 * 10. Then a step of another episode, masked. Terminated: 4; before it 2 + 0.5 * 4.
    assert states.targets.tolist() == pytest.approx([1 + 0.5 * 10, 2 + 0.5 * 4, 3 + 0.5 * 30, 4.0])
    assert states.mask.tolist() == [1.0, 1.0, 0.0, 1.0]
    assert states.values.tolist() == [0.0, 0.0, 10.0, 20.0]
    assert states.advantages.tolist() == pytest.approx([6.0, 4.0, 8.0, -16.0])  # target less value
    # With the outcomes, advantages are those of the rest of the episode. Not known: the target; nor after the end.
    outcome = Outcome(th.tensor([[20.0, math.nan], [4.0, 10.0]]), th.tensor([[0.25, 0.0], [0.5, 0.0]]), th.zeros(2, 1))
    states = replayed_targets(
        th.zeros(3, 2, 4), values, batch._replace(outcome=outcome), th.tensor(2.0), 0.5, 1.0, th.tensor([40.0, 50.0])
    )
    assert states.targets.tolist() == pytest.approx([6.0, 4.0, 18.0, 4.0])
    assert states.advantages.tolist() == pytest.approx([10.0 + 0.25 * 40, 4.0, 8.0, 5.0 - 20.0])


def test_steps_that_count_are_chosen_before_padding():
    mask = (th.arange(100) % 2).float()
    rows = th.arange(100.0)
    replayed = ReplayedStates(rows.unsqueeze(1), rows.unsqueeze(1), rows, rows, mask, rows)
    chosen = choose_states(replayed, 30)
    assert (chosen.mask == 1.0).all()
    assert len(chosen.targets.unique()) == 30
    assert th.equal(chosen.latents.squeeze(1), chosen.targets)
    assert choose_states(replayed, 60).mask.sum() == 50
    seen = th.stack([choose_states(replayed, 30).targets for _ in range(200)]).flatten().long().bincount(minlength=100)
    assert seen[1::2].float().std() < 12  # 120 on average, 7 if all are equally likely
    assert seen[::2].sum() == 0


def test_each_kind_of_state_counts_by_its_coefficient():
    """The loss over both is the sum of the mean losses of either, by their coefficients, whatever their numbers."""
    th.manual_seed(0)
    imagined = CriticTargets(th.randn(6, 2), th.randn(6), th.rand(6), th.full((6,), 0.5))
    mask = th.tensor([1.0, 1.0, 0.0, 1.0])
    replayed = ReplayedStates(th.randn(4, 2), th.zeros(4, 1), th.randn(4), th.zeros(4), mask, th.zeros(4))
    both = join_targets([(imagined, 0.5), (of_replayed(replayed, expectile=0.7), 0.3)])
    values = th.randn(1, 10)
    loss = critic_loss(values, *both[1:])
    alone = critic_loss(values[:, :6], *imagined[1:])
    errors = replayed.targets - values[0, 6:]
    asymmetric = th.where(errors > 0, 1.4, 0.6) * errors**2 * replayed.mask
    assert loss.item() == pytest.approx((0.5 * alone + 0.3 * asymmetric.mean()).item(), rel=1e-5)
    assert th.equal(both.latents, th.cat([imagined.latents, replayed.latents]))


def test_behavior_loss_by_hand():
    means, actions = th.atanh(th.tensor([[0.2, 0.0], [0.0, 0.5]])), th.tensor([[0.5, 0.0], [-0.5, 1.0]])
    first = (0.5 * (0.3 + 0.3**2) + 1.5 * (0.5 + 0.5**2)) / 2
    second = 1.5 * (0.5 + 0.5**2) / 2
    expected = math.log(first + 0.01) + math.log(second + 0.01)
    assert behavior_loss(means, actions, th.tensor([0.5, 1.5])).item() == pytest.approx(expected)


def test_behavior_loss_is_a_likelihood_with_the_best_spread():
    """The density exp(-rho / s) / s of one action, where s is searched for instead of put in."""
    th.manual_seed(0)
    actions = (0.3 * th.randn(500, 1)).clamp(-1.0, 1.0)
    distances = actions.abs() + actions**2
    spreads = th.linspace(0.05, 1.0, 1_901)
    best = (distances / spreads + spreads.log()).mean(0).min()
    assert behavior_loss(th.zeros(500, 1), actions, th.ones(500)).item() == pytest.approx(best.item() - 1.0, abs=0.04)


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_behavior_loss_counts_in_units_of_the_spread(scale):
    """Ten times the noise, ten times farther away: the same gradient for the same share of the noise."""
    means = th.full((2, 1), 0.01 * scale).requires_grad_()
    loss = behavior_loss(means, th.tensor([[0.05], [-0.05]]) * scale, th.tensor([1.5, 0.5]))
    gradient = scale * th.autograd.grad(loss, means)[0].sum()
    # By hand, of the absolute distance alone: (0.5 - 1.5) / 2 over a spread of (1.5 * 0.04 + 0.5 * 0.06) / 2
    assert gradient.item() == pytest.approx(-0.5 / 0.045, rel=0.35)


def best_action(actions: th.Tensor) -> float:
    """The action that minimizes the behavior loss."""
    candidates = th.linspace(-0.99, 0.99, 199)
    losses = [behavior_loss(th.atanh(a).expand_as(actions), actions, th.ones(len(actions))) for a in candidates]
    return candidates[int(th.stack(losses).argmin())].item()


def test_behavior_loss_sees_an_action_behind_clipped_noise():
    """A behavior's action is 0.9, its noise is clipped at 1, and a tenth of the actions are of another behavior."""
    th.manual_seed(0)
    actions = (0.9 + 0.3 * th.randn(20_000, 1)).clamp(-1.0, 1.0)
    actions[::10] = -1.0
    best, mean = best_action(actions), actions.mean().item()
    assert mean + 0.1 < best < actions.median()
    # Where the gradient is zero, the sides balance: P(a < best) - P(a > best) + 2 (best - mean) = 0.
    shares = (actions < best).float().mean() - (actions > best).float().mean()
    assert shares.item() == pytest.approx(2.0 * (mean - best), abs=0.03)
    assert best_action(th.tensor([[0.2], [0.3], [0.4]])) == pytest.approx(0.3, abs=0.01)


def test_behavior_loss_pulls_harder_from_farther_away():
    """Otherwise the states of which there are many decide alone."""
    means = th.atanh(th.tensor([[0.05], [0.9]])).requires_grad_()
    loss = behavior_loss(means, th.tensor([[0.0], [-0.9]]), th.ones(2))
    near, far = th.autograd.grad(loss, means)[0].squeeze(-1) / (1.0 - th.tanh(means.detach().squeeze(-1)) ** 2)
    assert (far / near).item() == pytest.approx((1.0 + 2 * 1.8) / (1.0 + 2 * 0.05), rel=1e-4)


def test_entropy_coefficient_moves_towards_the_target():
    log_ent_coef = th.zeros(1, requires_grad=True)
    for log_prob, direction in ((-3.0, -1), (3.0, 1)):  # an entropy of 3 is above the target of 1: less bonus
        (gradient,) = th.autograd.grad(ent_coef_loss(log_ent_coef, th.tensor(log_prob), 1.0), log_ent_coef)
        assert gradient.item() == pytest.approx(-(log_prob + 1.0))
        assert math.copysign(1, -gradient.item()) == direction


@pytest.mark.parametrize(("tau", "n_updates", "forgotten"), [(0.005, 50, 1e-3), (0.005, 2_000, 1e-7), (1.0, 1, 1e-9)])
def test_an_average_forgets_where_it_began(tau, n_updates, forgotten):
    weight_of_first = 1.0
    for n in range(n_updates):
        weight_of_first *= 1.0 - averaging_coefficient(tau, n)
    assert weight_of_first < forgotten
    assert averaging_coefficient(tau, 10_000) == tau


# --- Steps of an optimizer -------------------------------------------------------------------------------------------


def test_a_loss_is_the_same_at_each_evaluation_on_one_sample():
    """What L-BFGS needs: no state changes and no number is drawn while a loss is evaluated."""
    th.manual_seed(0)
    world_model = WorldModel(
        WorldModelConfig(observation_dim=3, action_dim=2, latent_dim=16, encoder_dim=8, mlp_dim=8, termination=True)
    )
    nn.init.normal_(world_model.reward_network[-1].weight, std=0.5)
    actor, critic = Actor(16, 2, [8], nn.SiLU), nn.Linear(16, 1)
    start, noise = world_model.encode(th.randn(5, 3)).detach(), th.randn(4, 5, 2)
    scales = th.tensor(0.7), th.tensor(2.0), th.tensor(0.05)

    def evaluate() -> tuple[th.Tensor, ...]:
        rollout = imagine(world_model, actor, start, noise, termination=True)
        loss = actor_loss(rollout, critic(rollout.latents[-1]).squeeze(-1), *scales, gamma=0.9)
        return loss.total, *th.autograd.grad(loss.total, actor.parameters())

    state, generator = copy.deepcopy(world_model.state_dict()), th.get_rng_state()
    first, second = evaluate(), evaluate()
    assert all(th.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(gradient.abs().max() > 1e-6 for gradient in first[1:])
    assert th.equal(generator, th.get_rng_state())
    assert all(th.equal(value, world_model.state_dict()[name]) for name, value in state.items())


def test_a_step_moves_only_its_own_parameters_and_clips():
    ours, frozen = th.nn.Parameter(th.tensor([3.0, 4.0])), th.nn.Parameter(th.tensor([1.0, 1.0]))
    optimizer = th.optim.SGD([ours], lr=1.0)
    result, norm = step(optimizer, lambda: ((ours * ours * frozen).sum() / 2, "seen"), clip=1.0)
    # The gradient (3, 4) has norm 5 and is scaled to norm 1.
    assert (result, norm.item()) == ("seen", pytest.approx(5.0))
    assert ours.tolist() == pytest.approx([3.0 - 0.6, 4.0 - 0.8])
    assert frozen.tolist() == [1.0, 1.0]
    assert frozen.grad is None


def test_a_gradient_that_is_not_finite_changes_nothing():
    parameter = th.nn.Parameter(th.tensor([1.0]))
    optimizer = th.optim.SGD([parameter], lr=1.0)
    with pytest.raises(FloatingPointError):
        step(optimizer, lambda: ((parameter * math.nan).sum(), None), clip=1.0)
    assert parameter.item() == 1.0


# --- Phases ----------------------------------------------------------------------------------------------------------


def test_phases():
    def phase(offline, learned_offline, pretrained, n_steps=100_000, **values):
        values = {**dict.fromkeys(PHASE_ARGUMENTS, "auto"), **values}
        return current_phase(values, offline, learned_offline, pretrained, n_steps)

    online = dict(imagined_critic_coef=1.0, replay_critic_coef=0.0, replay_critic_expectile=0.5)
    online.update(bc_coef=0.0, bc_dropout=0.0, discounted_fraction=0.0, new_fraction=0.0, lr_scale=1.0, actor_tau=1.0)
    near_data = dict(imagined_critic_coef=0.0, replay_critic_coef=1.0, replay_critic_expectile=0.7)
    near_data.update(
        bc_coef=1.0, bc_dropout=0.0, discounted_fraction=0.5, new_fraction=0.0, lr_scale=1.0, actor_tau=0.005
    )
    online["decays_learning_rate"], near_data["decays_learning_rate"] = False, True
    assert phase(False, False, False) == phase(False, False, True) == Phase(ONLINE, 1, **online)
    assert phase(True, False, True) == phase(True, True, True) == Phase(OFFLINE, 0, **near_data)
    assert phase(True, False, False) == Phase(OFFLINE, 1, **near_data)
    afterwards = {**near_data, "new_fraction": 0.5, "lr_scale": 0.1, "decays_learning_rate": False}
    assert phase(False, True, True) == phase(False, True, False) == Phase(OFFLINE_TO_ONLINE, 1, **afterwards)
    assert not phase(False, False, True).counts_latents
    assert phase(True, False, False).counts_latents
    assert phase(False, True, False).counts_latents
    numbers = dict(world_model_updates=3, replay_critic_coef=0.25, bc_coef=0.5)
    for flags in ((False, False, False), (True, False, True), (False, True, True)):  # numbers count in every phase
        given = phase(*flags, **numbers)
        assert (given.n_world_model_updates, given.replay_critic_coef, given.bc_coef) == (3, 0.25, 0.5)
        assert not phase(*flags, learning_rate=5e-4).decays_learning_rate
    assert phase(False, False, False, bc_coef="auto_2.5").bc_coef == 0.0
    for flags in ((True, False, True), (False, True, True)):  # only "auto" depends on the phase
        assert phase(*flags, bc_coef="auto_2.5").bc_coef == 2.5
    assert phase(False, False, False, n_steps=100).bc_dropout == 0.0
    for n_steps, dropout in ((0, 0.3), (10_000, 0.3), (20_000, 0.15), (30_000, 0.0), (10**8, 0.0)):
        for flags in ((True, False, True), (False, True, True)):
            assert phase(*flags, n_steps=n_steps).bc_dropout == pytest.approx(dropout)
    assert phase(True, False, True, n_steps=100, bc_dropout=0.0).bc_dropout == 0.0
    assert not phase(False, False, False).replays
    cloning = phase(False, False, False, world_model_updates=0, replay_critic_coef=0.0, bc_coef=0.1)
    assert cloning.replays
    assert not cloning.trains_world_model
    assert phase(True, False, True, replay_critic_coef=0.0).imagined_critic_coef == 1.0  # critics need one of them


@pytest.mark.parametrize("bc_coef", [-1.0, math.nan, math.inf, "auto_", "auto_x", "auto_-1", "autos", "1.0", None])
def test_bad_behavior_coefficients_are_refused(bc_coef):
    with pytest.raises(ValueError, match=r"bc_coef \(if not .*\) must be a number of at least 0, got"):
        parse_bc_coef(bc_coef)
