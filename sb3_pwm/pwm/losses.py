"""
Losses of actor, critics and entropy coefficient in imagined rollouts and along replayed sequences (PWM section 4).

All are pure functions of tensors. No loss changes a state or draws a number, so that it can be evaluated several times
on the same sample.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch as th

from sb3_pwm.common.imitation import distance, log_spread
from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.pwm.imagination import LatentRollout

BEST_SHARE = 0.2
"""Smallest share of the replayed steps that have the largest weight in the behavior term"""


class ReplayedStates(NamedTuple):
    """M replayed steps, with TD(lambda) targets from what really followed."""

    latents: th.Tensor
    """``(M, Z)``"""
    actions: th.Tensor
    """``(M, A)`` in [-1, 1]"""
    targets: th.Tensor
    """``(M,)`` TD(lambda) targets"""
    values: th.Tensor
    """``(M,)`` values of the states before the steps"""
    mask: th.Tensor
    """``(M,)`` one for a step, zero for padding after the end of an episode"""
    advantages: th.Tensor
    """``(M,)`` how much better than ``values`` the steps turned out until the ends of their episodes"""


def discount_weights(continues: th.Tensor, gamma: float) -> th.Tensor:
    """
    Weight of each step of a rollout: the discount times the probability of getting there.

    :param continues: ``(H, B)`` probability that the episode goes on after each step.
    :param gamma: Discount factor.
    :return: ``(H + 1, B)``; the first row is one.
    """
    steps = th.cumprod(gamma * continues, dim=0)
    return th.cat([th.ones_like(steps[:1]), steps])


def imagined_return(rewards: th.Tensor, continues: th.Tensor, final_values: th.Tensor, gamma: float) -> th.Tensor:
    """
    The H-step return with a bootstrap value, which the policy maximizes (PWM equation 6).

    :param rewards: ``(H, B)`` rewards.
    :param continues: ``(H, B)`` probability that the episode goes on after each step.
    :param final_values: ``(B,)`` values of the last latents, in the units of the rewards.
    :param gamma: Discount factor.
    :return: ``(B,)`` returns.
    """
    weights = discount_weights(continues, gamma)
    return (weights[:-1] * rewards).sum(0) + weights[-1] * final_values


def td_lambda_returns(
    rewards: th.Tensor, continues: th.Tensor, next_values: th.Tensor, gamma: float, td_lambda: float | th.Tensor
) -> th.Tensor:
    """
    TD(lambda) targets: ``G_t = r_t + gamma c_{t+1} ((1 - lambda) V_{t+1} + lambda G_{t+1})``, ``G_H = V_H``.

    :param rewards: ``(H, B)`` rewards.
    :param continues: ``(H, B)`` probability that the episode goes on after each step.
    :param next_values: ``(H, B)`` values of the states after each step.
    :param gamma: Discount factor.
    :param td_lambda: Lambda. 0 is one-step bootstrapping, 1 the H-step return. A tensor ``(H, B)`` has a lambda for
        each step, zero where the next step belongs to another episode.
    :return: ``(H, B)`` targets.
    """
    lambdas = td_lambda if isinstance(td_lambda, th.Tensor) else [td_lambda] * len(rewards)
    target = next_values[-1]
    targets = []
    for t in range(len(rewards) - 1, -1, -1):
        bootstrap = (1.0 - lambdas[t]) * next_values[t] + lambdas[t] * target
        target = rewards[t] + gamma * continues[t] * bootstrap
        targets.append(target)
    return th.stack(targets[::-1])


def advantage_weights(advantages: th.Tensor, mask: th.Tensor, temperature: float) -> th.Tensor:
    """
    Weights of replayed actions that are to be imitated: ``exp(min(A - A0, 0) / (temperature std(A)))``.

    Actions that turned out better than expected have one weight (as the indicator of CRR, arXiv 2006.15134), others the
    less the worse they were (as in advantage-weighted regression, arXiv 1910.00177). Without the bound, the luckiest
    steps of noisy behaviors would outweigh all steps of a good behavior, which turn out as expected. What is expected,
    A0, is zero; or less, if fewer than a fifth of the steps are better, since an upper expectile with bootstraps can be
    above all that ever followed (docs/experiments.md).

    :param advantages: ``(M,)`` advantages of the actions.
    :param mask: ``(M,)`` one for steps that count, zero for others.
    :param temperature: Temperature, in units of the standard deviation of the advantages. A small one imitates only the
        better actions, an infinite one all actions alike.
    :return: ``(M,)`` weights, zero where the mask is zero. Their mean over the steps that count is one.
    """
    count = mask.sum().clamp(min=1.0)
    mean = (advantages * mask).sum() / count
    std = (((advantages - mean) ** 2 * mask).sum() / count).sqrt().clamp(min=1e-6)
    # The lowest of the best fifth. Steps that do not count are last.
    ranked = advantages.masked_fill(mask == 0.0, -math.inf).sort(descending=True).values
    last = (BEST_SHARE * count).ceil().long().sub(1).clamp(min=0)
    expected = ranked.gather(0, last.unsqueeze(0)).clamp(max=0.0)
    weights = (((advantages - expected).clamp(max=0.0) / (temperature * std)).exp() * mask).nan_to_num()
    return weights * (count / weights.sum().clamp(min=1e-6))


def critic_loss(
    values: th.Tensor, targets: th.Tensor, weights: th.Tensor, expectiles: th.Tensor | float = 0.5
) -> th.Tensor:
    """
    Squared error of every member of the ensemble (PWM equation 8), or its asymmetric form.

    The value that minimizes it is an expectile of a state's targets (IQL, arXiv 2110.06169, section 4.1). Above 0.5, a
    target that is higher than the value counts for more than one that is lower.

    :param values: ``(N, M)`` predictions of the N members for M states.
    :param targets: ``(M,)`` TD(lambda) targets, without gradient.
    :param weights: ``(M,)`` weights of the states.
    :param expectiles: ``(M,)`` expectile of each state, between 0 and 1. 0.5 is the mean.
    :return: Scalar; the weighted mean over the states, summed over the members.
    """
    errors = targets - values
    asymmetry = 2.0 * th.where(errors.detach() > 0.0, expectiles, 1.0 - expectiles)
    return (asymmetry * errors**2 * weights).mean(-1).sum(0)


class ActorLoss(NamedTuple):
    """The loss of the actor and its parts."""

    total: th.Tensor
    """Scalar; what is minimized"""
    returns: th.Tensor
    """``(B,)`` imagined returns, in units of the reward scale"""
    log_prob: th.Tensor
    """Scalar; mean log-density of the actions, by the probability of getting to each"""
    behavior: th.Tensor | None = None
    """Scalar; the behavior term, if it is part of the loss"""


def actor_loss(
    rollout: LatentRollout,
    final_values: th.Tensor,
    reward_scale: th.Tensor,
    return_scale: th.Tensor,
    ent_coef: th.Tensor,
    gamma: float,
) -> ActorLoss:
    """
    The negative imagined return in units of its own spread, and the entropy bonus (PWM equation 6).

    :param rollout: Rollout of the actor in the world model.
    :param final_values: ``(B,)`` values of the last latents, in units of the reward scale.
    :param reward_scale: Scalar that rewards are divided by.
    :param return_scale: Scalar that the return is divided by, if it is above 1.
    :param ent_coef: Scalar; coefficient of the entropy bonus.
    :param gamma: Discount factor.
    :return: The loss and its parts.
    """
    rewards = rollout.rewards / reward_scale
    returns = imagined_return(rewards, rollout.continues, final_values, gamma)
    weights = discount_weights(rollout.continues.detach(), 1.0)[:-1]  # (H, B)
    log_prob = (weights * rollout.log_probs).mean()
    total = -returns.mean() / return_scale.clamp(min=1.0) + ent_coef * log_prob
    return ActorLoss(total, returns, log_prob)


def behavior_loss(means: th.Tensor, actions: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """
    Negative log-likelihood of the replayed actions, up to a constant: ``sum_k log(mean_j(w_j (|d_jk| + d_jk^2)))``.

    The mean over the states is inside of the logarithm, since the spread of the data's actions around the policy's is
    what it is for these data: the maximum-likelihood spread of a density ``exp(-rho / s) / s`` is the mean of rho, and
    the likelihood with it the mean's logarithm. The gradient is that of the distance in units of this spread. So the
    data decide how far the policy may go: where the actions of the data vary much, the world model knows many actions;
    those of a single expert it knows only nearby (docs/experiments.md).

    :func:`~sb3_pwm.common.imitation.distance` tells why it is this distance.

    :param means: ``(M, A)`` means of the actor in the replayed states, before the tanh.
    :param actions: ``(M, A)`` replayed actions.
    :param weights: ``(M,)`` weights of the replayed actions, see :func:`advantage_weights`.
    :return: Scalar; the sum over the dimensions of the action.
    """
    spreads = (weights.unsqueeze(-1) * distance(th.tanh(means), actions)).mean(0)  # (A,)
    return log_spread(spreads).sum()


def ent_coef_loss(log_ent_coef: th.Tensor, log_prob: th.Tensor, target_entropy: float) -> th.Tensor:
    """
    Loss of the logarithm of the entropy coefficient (SAC, arXiv 1812.05905, section 5).

    :param log_ent_coef: ``(1,)`` logarithm of the coefficient.
    :param log_prob: Scalar; mean log-density of the policy's actions, without gradient.
    :param target_entropy: Target of the entropy, in nats.
    :return: Scalar.
    """
    return -(log_ent_coef * (log_prob + target_entropy)).sum()


class CriticTargets(NamedTuple):
    """States that the critics learn from."""

    latents: th.Tensor
    """``(M, Z)``"""
    targets: th.Tensor
    """``(M,)`` TD(lambda) targets, in units of the reward scale"""
    weights: th.Tensor
    """``(M,)`` weights of the states"""
    expectiles: th.Tensor
    """``(M,)`` expectile of the targets that each state's value is to be; 0.5 is the mean"""


def imagined_targets(
    rollout: LatentRollout, next_values: th.Tensor, reward_scale: th.Tensor, gamma: float, td_lambda: float
) -> CriticTargets:
    """
    TD(lambda) targets of the states of an imagined rollout (PWM equation 8). Nothing in them has a gradient.

    :param rollout: The rollout.
    :param next_values: ``(H, B)`` values of the states after each step, in units of the reward scale.
    :param reward_scale: Scalar that rewards are divided by.
    :param gamma: Discount factor.
    :param td_lambda: Lambda of the targets.
    :return: The targets of all ``H * B`` states.
    """
    rewards, continues = (rollout.rewards / reward_scale).detach(), rollout.continues.detach()
    targets = td_lambda_returns(rewards, continues, next_values.detach(), gamma, td_lambda)
    weights = discount_weights(continues, 1.0)[:-1]  # (H, B)
    latents, expectiles = rollout.latents[:-1].detach(), th.full_like(weights, 0.5)
    return CriticTargets(latents.flatten(0, 1), targets.flatten(), weights.flatten(), expectiles.flatten())


def join_targets(parts: Sequence[tuple[CriticTargets, float]]) -> CriticTargets:
    """
    Join the states that the critics learn from.

    :param parts: Targets of several kinds of states, each with the weight of its mean loss.
    :return: The targets of all.
    """
    # The loss is a mean over all states: more states in a part must not make each of the others count less.
    total = sum(len(part.targets) for part, _ in parts)
    weighted = [part._replace(weights=part.weights * (coef * total / len(part.targets))) for part, coef in parts]
    return CriticTargets(*(th.cat(column) for column in zip(*weighted, strict=True)))


def of_replayed(replayed: ReplayedStates, expectile: float) -> CriticTargets:
    """
    Targets of the states of replayed steps.

    :param replayed: The replayed steps.
    :param expectile: Expectile of the targets that the values are to be.
    :return: The targets.
    """
    expectiles = th.full_like(replayed.mask, expectile)
    return CriticTargets(replayed.latents, replayed.targets, replayed.mask, expectiles)


def replayed_targets(
    latents: th.Tensor,
    values: th.Tensor,
    batch: SequenceBatch,
    reward_scale: th.Tensor,
    gamma: float,
    td_lambda: float,
    last_values: th.Tensor | None = None,
) -> ReplayedStates:
    """
    TD(lambda) targets of the steps of replayed sequences, of what really followed them, and their advantages.

    Advantages are those of the whole rest of the episode if the batch has its outcome. States do not tell which of
    several behaviors made them, so that targets which bootstrap after a few steps rate a behavior that is about to fall
    no lower than one that is not.

    :param latents: ``(H + 1, B, Z)`` encodings of the sequences' observations.
    :param values: ``(H + 1, B)`` values of these latents, in units of the reward scale.
    :param batch: The sequences.
    :param reward_scale: Scalar that rewards are divided by.
    :param gamma: Discount factor.
    :param td_lambda: Lambda of the targets.
    :param last_values: ``(B,)`` values after the ends of the sequences' first episodes, in units of the reward scale;
        None if the batch has no outcome.
    :return: All ``H * B`` steps.
    """
    # No target reaches beyond its episode: a truncated episode bootstraps from its last observation.
    same_episode = th.cat([batch.mask[1:], th.ones_like(batch.mask[:1])])
    targets = td_lambda_returns(
        batch.rewards / reward_scale, 1.0 - batch.terminations, values[1:], gamma, td_lambda * same_episode
    )
    returns = targets
    if batch.outcome is not None and last_values is not None:
        returns = batch.outcome.returns / reward_scale + batch.outcome.bootstrap * last_values
        returns = th.where(returns.isnan() | (batch.mask == 0.0), targets, returns)
    steps = latents[:-1], batch.actions, targets, values[:-1], batch.mask, returns - values[:-1]
    return ReplayedStates(*(part.flatten(0, 1) for part in steps))


def choose_states(replayed: ReplayedStates, number: int) -> ReplayedStates:
    """
    Choose replayed steps at random, those that count before padding.

    :param replayed: The replayed steps.
    :param number: Number of steps.
    :return: These steps, or all if there are not more.
    """
    order = th.rand_like(replayed.mask) - replayed.mask  # in [-1, 0) if the step counts
    chosen = order.argsort()[:number]
    return ReplayedStates(*(part[chosen] for part in replayed))
