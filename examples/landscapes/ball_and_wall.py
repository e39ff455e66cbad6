"""
Throw a ball over a wall: gradient ascent on the true distance, and on networks that learned it, in half a minute.

A ball is thrown at 10 m/s. A wall of 3 m, 5 m away, stops the balls that do not clear it. The decision is the angle.
The true distance is flat where the wall stops the ball, and jumps where the ball just clears it: its gradient does not
lead there. (The example follows Suh et al., "Do differentiable simulators give better policy gradients?",
arXiv 2202.00817, and section 3 of the PWM paper.)

Two networks are fitted to the same throws: a plain one, and one whose latent is normalized by SimNorm, as a world
model's is. Gradient ascent starts at many angles on each of the three objectives. The picture shows the objectives and
the angles that it reached, the table the number of different optima and how far these throws fly.

    python examples/landscapes/ball_and_wall.py [--throws 200] [--seeds 10] [--out ball_and_wall.png]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch as th
from torch import nn

from sb3_pwm.common.layers import SimNorm

SPEED, GRAVITY = 10.0, 9.81
WALL_DISTANCE, WALL_HEIGHT = 5.0, 3.0
STARTS = th.linspace(0.02, 0.98, 97)
Objective = Callable[[th.Tensor], th.Tensor]


def distance(u: th.Tensor) -> th.Tensor:
    """
    How far a ball flies.

    :param u: Angles ``(B,)`` as fractions of 90 degrees.
    :return: Distances ``(B,)`` in m.
    """
    angle = u.clamp(0.0, 1.0) * (np.pi / 2)
    flight = SPEED**2 * th.sin(2.0 * angle) / GRAVITY
    time = WALL_DISTANCE / (SPEED * th.cos(angle).clamp(min=1e-6))
    height = SPEED * th.sin(angle) * time - 0.5 * GRAVITY * time**2
    stopped = (height < WALL_HEIGHT) & (flight > WALL_DISTANCE)
    return th.where(stopped, th.full_like(flight, WALL_DISTANCE), flight)


def fit(sim_norm: bool, n_throws: int, seed: int, n_updates: int = 3_000) -> Objective:
    """
    Fit a network to random throws.

    :param sim_norm: Whether the network has a latent that is normalized by SimNorm, instead of another ReLU layer.
    :param n_throws: Number of throws.
    :param seed: Seed of the throws and of the network.
    :param n_updates: Number of updates, each with all throws.
    :return: Objective that predicts the distance.
    """
    th.manual_seed(seed)
    u = th.rand(n_throws)
    latent = SimNorm(8) if sim_norm else nn.ReLU()
    network = nn.Sequential(nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 64), latent, nn.Linear(64, 1))
    target, inputs = distance(u) / SPEED, 2.0 * u.unsqueeze(-1) - 1.0
    optimizer = th.optim.Adam(network.parameters(), lr=3e-3)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_updates)
    for _ in range(n_updates):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(inputs).squeeze(-1), target).backward()
        optimizer.step()
        schedule.step()
    network.requires_grad_(False)
    return lambda u: SPEED * network(2.0 * u.unsqueeze(-1) - 1.0).squeeze(-1)


def ascend(objective: Objective, n_steps: int = 500, learning_rate: float = 2e-3) -> th.Tensor:
    """
    Gradient ascent by Adam from all starts at once.

    :param objective: Objective of the angles.
    :param n_steps: Number of steps.
    :param learning_rate: Learning rate, which decays to zero.
    :return: The angles that it reached, of the shape of :data:`STARTS`.
    """
    u = STARTS.clone().requires_grad_()
    optimizer = th.optim.Adam([u], lr=learning_rate)
    schedule = th.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, n_steps)
    for _ in range(n_steps):
        optimizer.zero_grad()
        (-objective(u).sum()).backward()
        optimizer.step()
        schedule.step()
        with th.no_grad():
            u.clamp_(0.0, 1.0)
    return u.detach()


def n_optima(u: th.Tensor, apart: float = 0.01) -> int:
    """:return: Number of groups of angles that are farther apart than ``apart`` of 90 degrees."""
    return 1 + int((u.sort().values.diff() > apart).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--throws", type=int, default=200, help="number of throws that the networks learn from")
    parser.add_argument("--seeds", type=int, default=10, help="number of networks of each kind")
    parser.add_argument("--out", type=Path, default=Path("ball_and_wall.png"), help="file of the picture")
    args = parser.parse_args()

    grid = th.linspace(0.0, 1.0, 1_001)
    best = float(distance(grid).max())
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), sharey=True, layout="constrained")
    print(f"The best throw flies {best:.2f} m. Ascent from {len(STARTS)} angles:")
    kinds: dict[str, list[Objective]] = {
        "true distance": [distance],
        "plain network": [fit(False, args.throws, seed) for seed in range(args.seeds)],
        "network with SimNorm": [fit(True, args.throws, seed) for seed in range(args.seeds)],
    }
    for axis, (name, objectives) in zip(axes, kinds.items(), strict=True):
        axis.plot(90 * grid, distance(grid), color="black", linewidth=0.8, label="true distance")
        reached = [ascend(objective) for objective in objectives]
        flown = th.stack([distance(u) for u in reached])  # (seeds, starts)
        print(
            f"  {name:22s} optima {np.mean([n_optima(u) for u in reached]):4.1f}   "
            f"mean distance {flown.mean():5.2f} m   within 5% of the best {(flown > 0.95 * best).float().mean():4.0%}"
        )
        if objectives[0] is not distance:
            axis.plot(90 * grid, objectives[0](grid), label="prediction, first seed")
        axis.plot(90 * reached[0], objectives[0](reached[0]), "o", color="tab:red", alpha=0.4, label="reached")
        axis.set(title=name, xlabel="angle in degrees")
        axis.legend()
    axes[0].set_ylabel("distance in m")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    print(f"Picture: {args.out}")


if __name__ == "__main__":
    main()
