"""
Slices of the return around a policy of Walker-walk: in its world model, and in the simulator, in a few minutes.

PWM learns online for 6,000 steps, once with a world model whose latents are normalized by SimNorm, and once
without. Each policy is then moved along two random directions. They are filter-normalized (Li et al., "Visualizing the
loss landscape of neural nets", arXiv 1712.09913): each row of a weight matrix has a random direction of its own, as
long as the row. At each point of a grid, the policy acts without noise for H steps, in the world model and in the
simulator, from the same states, which it has visited before. The picture shows the mean sums of the rewards.

The roughness of a slice is the mean absolute second difference between neighbors on the grid, along rows and columns,
in percent of the range of the slice: zero for a plane. A local maximum is a point of the grid that is higher than all
of its neighbors, at most eight.

    python examples/landscapes/return_slices.py [--steps 1500] [--grid 13] [--out return_slices.png]
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import gymnasium as gym
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import nn

from sb3_pwm import PWM
from sb3_pwm.envs.dm_control import DMControlEnv
from sb3_pwm.pwm.self_evaluation import judge

TASK = "Walker-walk"
Parameters = Mapping[str, th.Tensor]
"""Parameters of a network by their names"""


def filter_normalized_direction(network: nn.Module) -> dict[str, th.Tensor]:
    """
    Draw a direction in which the rows of all weight matrices change by their own size.

    :param network: The network.
    :return: Direction by the names of the parameters. Biases and parameters of LayerNorm do not move.
    """
    direction = {}
    for name, value in network.named_parameters():
        row = th.randn_like(value) if value.ndim > 1 else th.zeros_like(value)
        size = row.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        direction[name] = (row / size * value.norm(dim=-1, keepdim=True)).detach()
    return direction


def slice_of(
    objective: Callable[[Parameters], float], center: Parameters, directions: Sequence[Parameters], steps: NDArray
) -> NDArray:
    """
    Evaluate an objective on a grid of parameters.

    :param objective: Function of the parameters.
    :param center: Parameters in the middle of the slice.
    :param directions: Two directions.
    :param steps: Coordinates ``(G,)`` of the grid, in units of either direction.
    :return: Values ``(G, G)``, the coordinate of the first direction first.
    """
    first, second = directions
    return np.array(
        [
            [
                objective({name: value + x * first[name] + y * second[name] for name, value in center.items()})
                for y in steps
            ]
            for x in steps
        ]
    )


def roughness(values: NDArray) -> float:
    """:return: Mean absolute second difference along rows and columns of a grid ``(G, G)``, relative to its range."""
    differences = np.concatenate([np.diff(values, 2, axis=axis).ravel() for axis in (0, 1)])
    return float(np.abs(differences).mean() / max(np.ptp(values), 1e-12))


def n_local_maxima(values: NDArray) -> int:
    """:return: Number of points of a grid ``(G, G)`` that are higher than all of their neighbors on the grid."""
    padded = np.pad(values, 1, constant_values=-np.inf)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(*values.shape, 9)
    return int((values > np.delete(around, 4, axis=-1).max(-1)).sum())


def visited_states(model: PWM, env: DMControlEnv, n: int) -> list[NDArray]:
    """
    Let a policy act with its noise, and remember where it gets.

    :param model: The policy.
    :param env: The environment.
    :param n: Number of states, one of each episode.
    :return: States of the simulator, at random steps in the first half of an episode.
    """
    states, random = [], np.random.default_rng(0)
    for seed in range(n):
        observation, _ = env.reset(seed=seed)
        for _ in range(random.integers(250)):
            observation = env.step(model.predict(observation)[0])[0]
        states.append(env.environment.physics.get_state())
    return states


def set_state(env: DMControlEnv, state: NDArray) -> NDArray:
    """
    :param env: The environment.
    :param state: State of its simulator.
    :return: Observation ``(O,)`` of the state that it is in now.
    """
    physics = env.environment.physics
    with physics.reset_context():
        physics.set_state(state)
    entries = env.environment.task.get_observation(physics)
    return np.concatenate(tuple(entries.values()), axis=None, dtype=np.float32)


def simulated_return(model: PWM, envs: Sequence[DMControlEnv], states: Sequence[NDArray], n_steps: int) -> float:
    """
    Mean return of a policy without noise in the simulator.

    :param model: The policy.
    :param envs: B environments.
    :param states: States that they start from.
    :param n_steps: Number of steps.
    :return: Mean over the rollouts of the sum of the rewards.
    """
    observations, total = [set_state(env, state) for env, state in zip(envs, states, strict=True)], 0.0
    for _ in range(n_steps):
        actions, _ = model.predict(np.stack(observations), deterministic=True)
        steps = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        observations = [step[0] for step in steps]
        total += sum(step[1] for step in steps)
    return total / len(envs)


def slices(model: PWM, n_starts: int, n_steps: int, n_points: int, span: float) -> dict[str, NDArray]:
    """
    Slices of the return around a policy.

    :param model: The policy and its world model.
    :param n_starts: Number of states to start from.
    :param n_steps: Number of steps of a rollout.
    :param n_points: Number of points along a direction, G.
    :param span: Largest step along a direction.
    :return: Returns ``(G, G)`` in the world model and in the simulator.
    """
    policy = model.policy
    policy.set_training_mode(False)
    envs = [gym.make(TASK).unwrapped for _ in range(n_starts)]
    states = visited_states(model, envs[0], n_starts)
    with th.no_grad():
        latents = policy.encode(th.as_tensor(np.stack([set_state(envs[0], state) for state in states])))
    center = {name: value.clone() for name, value in policy.actor_average.named_parameters()}
    directions = [filter_normalized_direction(policy.actor_average) for _ in range(2)]

    def in_world_model(parameters: Parameters) -> float:
        policy.actor_average.load_state_dict(parameters, strict=False)  # without the statistics of latents
        return judge(policy, latents, False, n_steps).mean_return

    def in_simulator(parameters: Parameters) -> float:
        policy.actor_average.load_state_dict(parameters, strict=False)
        return simulated_return(model, envs, states, n_steps)

    steps = np.linspace(-span, span, n_points)
    return {
        "world model": slice_of(in_world_model, center, directions, steps),
        "simulator": slice_of(in_simulator, center, directions, steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6_000, help="number of steps that PWM learns from")
    parser.add_argument("--starts", type=int, default=6, help="number of states that rollouts start from")
    parser.add_argument("--horizon", type=int, default=32, help="number of steps of a rollout")
    parser.add_argument("--grid", type=int, default=13, help="number of points along a direction")
    parser.add_argument("--span", type=float, default=1.0, help="largest step along a direction")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    parser.add_argument("--out", type=Path, default=Path("return_slices.png"), help="file of the picture")
    args = parser.parse_args()

    figure, grid = plt.subplots(2, 2, figsize=(9, 7.5), layout="constrained", sharex=True, sharey=True)
    for row, (name, simnorm_dim) in zip(grid, {"SimNorm": 8, "no SimNorm": 0}.items(), strict=True):
        model = PWM("MlpPolicy", TASK, world_model=dict(simnorm_dim=simnorm_dim), seed=args.seed, device="cpu")
        model.learn(args.steps)
        th.manual_seed(args.seed)
        of_model = slices(model, args.starts, args.horizon, args.grid, args.span)
        correlation = np.corrcoef(*(values.ravel() for values in of_model.values()))[0, 1]
        print(f"{name}: correlation of world model and simulator {correlation:.2f}")
        for axis, (place, values) in zip(row, of_model.items(), strict=True):
            middle = values[args.grid // 2, args.grid // 2]
            print(
                f"  {place:12s} return {middle:5.1f}, from {values.min():5.1f} to {values.max():5.1f}   "
                f"roughness {roughness(values):6.2%}   local maxima {n_local_maxima(values)}"
            )
            image = axis.imshow(values.T, origin="lower", extent=[-args.span, args.span] * 2)
            axis.plot(0.0, 0.0, "+", color="white")
            axis.set(title=f"{place}, {name}")
            figure.colorbar(image, ax=axis)
    figure.supxlabel("first direction")
    figure.supylabel("second direction")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=90)
    print(f"Picture: {args.out}")


if __name__ == "__main__":
    main()
