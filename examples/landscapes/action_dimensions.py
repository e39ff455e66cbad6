"""
Noise of the policy gradient against the number of action dimensions: through the world model, and without derivatives.

PWM learns each task online for some thousand steps. Its policy is then rolled out for H steps in its world model, from
states that it has visited. The gradient of the return, with the critics' value at the end, is taken in two ways:

- first order: through the world model, which is what PWM does;
- score function (REINFORCE, Williams 1992): the gradient of the log-density of the actions, by how much better than
  the critics' value of the state the rest of the rollout was. It needs no derivative of the world model.

The expected signal-to-noise ratio is that of a single rollout, ``sum_p E[g_p]^2 / sum_p Var[g_p]`` with P parameters of
the policy (Parmas et al., 2023), without bias; N rollouts have N times the ratio. The norm is the mean gradient's.
The cosine is that of the two mean gradients. They are not the same: PWM's does not pass through the policy's input, and
the other one's noise is left in its mean.

    python examples/landscapes/action_dimensions.py [--steps 2500] [--rollouts 2048] [--out action_dimensions.png]
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch as th
from matplotlib.ticker import NullLocator
from torch.distributions import Normal
from torch.func import functional_call, vmap

import sb3_pwm  # noqa: F401 (registers the environments)
from sb3_pwm import PWM
from sb3_pwm.pwm.imagination import imagine
from sb3_pwm.pwm.losses import discount_weights, imagined_return

TASKS = (
    *("Cartpole-balance", "Walker-stand", "Humanoid-stand", "Dog-stand", "Humanoid_CMU-stand"),
    "Muscle-humanoid-balance",
)
"""Environments of 1, 6, 21, 38, 56 and 152 action dimensions, all with rewards from the first step on"""
ROLLOUTS_AT_ONCE = 128


class Moments(NamedTuple):
    """Statistics of the gradients of single rollouts."""

    mean: th.Tensor
    """Mean gradient ``(P,)``"""
    variance: float
    """Sum of the parameters' variances"""
    esnr: float
    """Expected signal-to-noise ratio of a single rollout; below zero where nothing but noise was seen"""

    @property
    def norm(self) -> float:
        """Norm of the mean gradient, without what noise adds to it."""
        return math.sqrt(max(self.esnr * self.variance, 0.0))


class MeanAndVariance:
    """Mean and variances of gradients that come in parts."""

    def __init__(self) -> None:
        self.n, self.total, self.squares = 0, 0.0, 0.0

    def add(self, gradients: th.Tensor) -> None:
        """:param gradients: Gradients ``(N, P)`` of N rollouts."""
        gradients = gradients.double()
        self.n += len(gradients)
        self.total = self.total + gradients.sum(0)
        self.squares = self.squares + (gradients**2).sum(0)

    def moments(self) -> Moments:
        """:return: The statistics. The square of a mean exceeds that of the expectation by an N-th of the variance."""
        mean = th.as_tensor(self.total) / self.n
        variance = float(((self.squares / self.n - mean**2) * (self.n / (self.n - 1))).sum())
        return Moments(mean, variance, (float((mean**2).sum()) - variance / self.n) / variance)


def gradients_of(model: PWM, latents: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Gradients of the return of single rollouts in the world model.

    :param model: The model.
    :param latents: Start latents ``(N, Z)``.
    :param noise: Standard normal noise ``(H, N, A)`` of the actions.
    :return: First-order gradients and score-function gradients, ``(N, P)`` each, by the policy's parameters.
    """
    policy, scale = model.policy, model.policy.reward_scale.value
    # Each rollout has its own copy of the policy, so that one backward pass has all their gradients.
    parameters = {
        name: value.detach().expand(len(latents), *value.shape).clone().requires_grad_()
        for name, value in policy.actor.named_parameters()
    }
    act: Callable[..., tuple[th.Tensor, th.Tensor]] = vmap(
        lambda own, latent: functional_call(policy.actor, own, (latent,))
    )

    def gradients(objective: th.Tensor) -> th.Tensor:
        parts = th.autograd.grad(objective, list(parameters.values()))
        return th.cat([part.reshape(len(latents), -1) for part in parts], -1)

    rollout = imagine(policy.world_model, lambda z: act(parameters, z), latents, noise)
    last = policy.critic_target(rollout.latents[-1]).amin(0)
    returns = imagined_return(rollout.rewards / scale, rollout.continues, last, model.gamma)
    first_order = gradients(returns.sum())
    with th.no_grad():
        values = policy.critic_target(rollout.latents[:-1]).amin(0)  # (H, N)
        weights = discount_weights(rollout.continues, model.gamma)  # (H + 1, N)
        earned = weights[:-1] * rollout.rewards / scale
        to_go = earned.flip(0).cumsum(0).flip(0) + weights[-1] * last  # from each step on, discounted to the first
        advantages = to_go - weights[:-1] * values
    objective = th.zeros(())
    for latent, step_noise, advantage in zip(rollout.latents[:-1].detach(), noise, advantages, strict=True):
        mean, log_std = act(parameters, latent)
        # Before the tanh: what it adds to the log-density of a given action has no gradient.
        drawn = (mean + log_std.exp() * step_noise).detach()
        objective = objective + (advantage * Normal(mean, log_std.exp()).log_prob(drawn).sum(-1)).sum()
    return first_order, gradients(objective)


def measure(model: PWM, n_rollouts: int) -> tuple[Moments, Moments]:
    """
    :param model: A model that has learned online.
    :param n_rollouts: Number of rollouts.
    :return: Statistics of its first-order and its score-function gradients.
    """
    assert model.replay_buffer is not None
    first_order, score_function = MeanAndVariance(), MeanAndVariance()
    model.policy.requires_grad_(False)
    for _ in range(math.ceil(n_rollouts / ROLLOUTS_AT_ONCE)):
        batch = model.replay_buffer.sample_sequences(ROLLOUTS_AT_ONCE, model.horizon)
        latents = model.policy.encode(batch.observations[0]).detach()
        noise = th.randn(model.horizon, len(latents), batch.actions.shape[-1])
        for statistics, gradients in zip(
            (first_order, score_function), gradients_of(model, latents, noise), strict=True
        ):
            statistics.add(gradients)
    return first_order.moments(), score_function.moments()


def draw(dimensions: Sequence[int], rows: Sequence[tuple[float, float, float]], path: Path) -> None:
    """
    Draw norms and ratios against the number of action dimensions.

    :param dimensions: Number of action dimensions of each task.
    :param rows: For each task the norm, and the ratios of first-order and of score-function gradients. A ratio that is
        not above zero, where nothing but noise was seen, has no point.
    :param path: File of the picture.
    """
    norms, *ratios = zip(*rows, strict=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.plot(dimensions, norms, ".-", color="tab:blue")
    left.set(ylabel="norm of the mean gradient, first order", ylim=(0.0, None))
    names = ("first order", "score function (no point: nothing but noise)")
    for name, values, color in zip(names, ratios, ("tab:blue", "tab:orange"), strict=True):
        right.plot(dimensions, [value if value > 0.0 else math.nan for value in values], ".-", color=color, label=name)
    right.set(ylabel="signal-to-noise ratio of one rollout", yscale="log")
    right.legend()
    for axes in (left, right):
        axes.set(xlabel="action dimensions", xscale="log")
        axes.set_xticks(dimensions, dimensions)
        axes.xaxis.set_minor_locator(NullLocator())
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="environments (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2_500, help="steps of learning (default: %(default)s)")
    parser.add_argument("--learning-starts", type=int, default=1_000, help="of them random (default: %(default)s)")
    parser.add_argument("--rollouts", type=int, default=2_048, help="rollouts of the statistics (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("action_dimensions.png"), help="file of the picture")
    args = parser.parse_args()

    dimensions, rows = [], []
    print(f"{'':22s}{'actions':>8s}{'norm':>9s}{'ratio':>11s}{'ratio, score function':>23s}{'cosine':>8s}")
    for task in args.tasks:
        model = PWM("MlpPolicy", gym.make(task), learning_starts=args.learning_starts, seed=args.seed)
        model.learn(args.steps, progress_bar=True)
        first_order, score_function = measure(model, args.rollouts)
        dimensions.append(model.action_space.shape[0])  # type: ignore[index]
        rows.append((first_order.norm, first_order.esnr, score_function.esnr))
        cosine = float(th.cosine_similarity(first_order.mean, score_function.mean, dim=0))
        print(
            f"{task:22s}{dimensions[-1]:8d}{first_order.norm:9.3g}{first_order.esnr:11.3g}{score_function.esnr:23.3g}"
            f"{cosine:8.2f}",
            flush=True,
        )
        model.env.close()  # type: ignore[union-attr]

    draw(dimensions, rows, args.out)
    print(f"Picture: {args.out}")


if __name__ == "__main__":
    main()
