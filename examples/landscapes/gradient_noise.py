"""
Noise of the policy gradient against the horizon: true dynamics and world models, in a few minutes.

The task is the swing-up of a double pendulum, whose simulator is differentiable. One policy acts in the simulator for H
steps. Its gradient is taken through the true dynamics, and through world models that follow the same actions: states,
actions and action noise are the same for all, and what differs are the derivatives of next state and reward.

The world models are trained on the same data with the same number of updates, on sequences of 3 or of 16 steps, with
SimNorm and without. The gradients are those of single rollouts g, over start states and action noise. With P parameters
of the policy, the variance is ``sum_p Var[g_p]``, and the expected signal-to-noise ratio (Parmas et al., "Model-based
reinforcement learning with scalable composite policy gradient estimators", 2023) is
``sum_p E[g_p]^2 / sum_p Var[g_p]``. N rollouts have N times the ratio. The cosine between the mean gradient and that of
the true dynamics says whether a gradient with little noise is right.

    python examples/landscapes/gradient_noise.py [--updates 1000] [--rollouts 256] [--out gradient_noise.png]
"""

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch as th
from torch import nn
from torch.func import functional_call, vmap

from sb3_pwm import SequenceBatch, WorldModel, WorldModelConfig
from sb3_pwm.envs.differentiable import DoublePendulumSwingup, Simulator
from sb3_pwm.pwm.imagination import Dynamics, imagine, imagined_step
from sb3_pwm.pwm.losses import imagined_return
from sb3_pwm.pwm.networks import Actor, squashed_action
from sb3_pwm.world_model import world_model_loss

# The reward is that of the state before the step: the return of a single step has no gradient.
HORIZONS = (2, 4, 8, 16, 32, 64)
GAMMA = 0.99
EPISODE_STEPS = 250
COLORS = {
    "true dynamics": "black",
    "true, detached": "gray",
    "H 3": "tab:blue",
    "H 16": "tab:red",
    "H 3 without SimNorm": "tab:blue",
    "H 16 without SimNorm": "tab:red",
}
Look = Callable[[th.Tensor], th.Tensor]
"""Function of states ``(..., S)`` that returns what the policy sees of them"""
Table = dict[str, dict[str, list[float]]]
"""Numbers for each horizon, by name and quantity"""


class Data(NamedTuple):
    """N episodes of T steps, time first."""

    states: th.Tensor
    """States ``(T + 1, N, S)`` of the simulator"""
    observations: th.Tensor
    """``(T + 1, N, O)``"""
    actions: th.Tensor
    """``(T, N, A)``"""
    rewards: th.Tensor
    """``(T, N)``"""


class Noise(NamedTuple):
    """Statistics of gradients."""

    variance: float
    """Sum of the parameters' variances"""
    esnr: float
    """Expected signal-to-noise ratio"""
    mean: th.Tensor
    """Mean gradient ``(P,)``"""


class Followed:
    """
    A world model that follows a simulator: the policy sees the states of the simulator, whatever the model predicts.

    A state is one of the simulator, which has no gradient, and a latent of the world model.

    :param simulator: The simulator.
    :param world_model: The world model.
    """

    def __init__(self, simulator: Simulator, world_model: WorldModel):
        self.simulator = simulator
        self.world_model = world_model
        self.sizes = [simulator.initial_state(1).shape[-1], world_model.config.latent_dim]

    def start(self, states: th.Tensor) -> th.Tensor:
        """:return: Start states ``(..., S + Z)`` from those of the simulator ``(..., S)``."""
        with th.no_grad():
            return th.cat([states, self.world_model.encode(self.simulator.observation(states))], -1)

    def look(self, states: th.Tensor) -> th.Tensor:
        """:return: Observations ``(..., O)`` of the simulator's states."""
        return self.simulator.observation(states.split(self.sizes, -1)[0])

    def next(self, latents: th.Tensor, actions: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:
        state, latent = latents.split(self.sizes, -1)
        with th.no_grad():
            state = self.simulator.next(state, actions)
        return th.cat([state, self.world_model.next(latent, actions)], -1)

    def reward(self, latents: th.Tensor, actions: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:
        return self.world_model.reward(latents.split(self.sizes, -1)[1], actions)

    def continuation(self, latents: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:
        return th.ones_like(latents[..., 0])


def sample_gradients(
    dynamics: Dynamics,
    actor: nn.Module,
    look: Look,
    states: th.Tensor,
    noise: th.Tensor,
    horizons: Sequence[int],
    detach: bool = True,
    gamma: float = GAMMA,
) -> dict[int, th.Tensor]:
    """
    Gradients of single rollouts.

    :param dynamics: What the policy is rolled out in.
    :param actor: The policy, a function of what it sees.
    :param look: Function that returns what the policy sees of a state.
    :param states: Start states ``(N, S)``.
    :param noise: Standard normal noise ``(H, N, A)`` of the actions.
    :param horizons: Numbers of steps of which the return is the sum of the discounted rewards, H at most.
    :param detach: Whether the policy's input has no gradient, as in PWM. If not, it is the whole gradient.
    :param gamma: Discount factor.
    :return: Gradients ``(N, P)`` by the parameters of the policy, for each horizon.
    """
    # Each rollout has its own copy of the policy, so that one backward pass has all their gradients.
    parameters = {
        name: value.detach().expand(len(states), *value.shape).clone().requires_grad_()
        for name, value in actor.named_parameters()
    }
    act = vmap(lambda own, seen: functional_call(actor, own, (seen,)))
    rollout = imagine(
        dynamics,
        lambda states: act(parameters, look(states)),
        states,
        noise,
        step=partial(imagined_step, detach=detach),
    )
    nothing = th.zeros_like(rollout.rewards[0])
    gradients = {}
    for horizon in horizons:
        returns = imagined_return(rollout.rewards[:horizon], rollout.continues[:horizon], nothing, gamma)
        parts = th.autograd.grad(returns.sum(), list(parameters.values()), retain_graph=True)
        gradients[horizon] = th.cat([part.reshape(len(states), -1) for part in parts], -1)
    return gradients


def gradient_noise(gradients: th.Tensor) -> Noise:
    """
    Statistics of gradients, without bias: the square of a mean of N samples exceeds that of the expectation by a Nth of
    the variance on average.

    :param gradients: Gradients ``(N, P)`` of N rollouts.
    :return: The statistics. The ratio of gradients that are nothing but noise can be negative.
    """
    gradients = gradients.double()
    mean = gradients.mean(0)
    variance = gradients.var(0).sum()
    signal = (mean**2).sum() - variance / len(gradients)
    return Noise(float(variance), float(signal / variance), mean)


def improve(simulator: Simulator, actor: Actor, n_updates: int, horizon: int = 32, n_rollouts: int = 64) -> None:
    """
    Improve a policy by the true gradient of short rollouts that follow each other, as SHAC does, without a critic.

    :param simulator: The simulator.
    :param actor: The policy.
    :param n_updates: Number of updates.
    :param horizon: Number of steps of a rollout.
    :param n_rollouts: Number of rollouts in an update. They begin anew after an episode.
    """
    optimizer = th.optim.Adam(actor.parameters(), lr=2e-3, betas=(0.7, 0.95))
    states = simulator.initial_state(n_rollouts)
    for update in range(n_updates):
        if update % (EPISODE_STEPS // horizon) == 0:
            states = simulator.initial_state(n_rollouts)
        noise = th.randn(horizon, n_rollouts, simulator.action_dim)
        rollout = imagine(
            simulator,
            lambda states: actor(simulator.observation(states)),
            states,
            noise,
            step=partial(imagined_step, detach=False),
        )
        optimizer.zero_grad()
        (-rollout.rewards.mean()).backward()
        nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
        optimizer.step()
        states = rollout.latents[-1].detach()


@th.no_grad()
def collect(simulator: Simulator, actors: Sequence[Actor], n_episodes: int, random_fraction: float = 0.3) -> Data:
    """
    Simulate episodes of several policies.

    :param simulator: The simulator.
    :param actors: The policies, with as many episodes each.
    :param n_episodes: Number of episodes of each policy.
    :param random_fraction: Probability that the action of a step is uniform instead of the policy's.
    :return: The episodes.
    """
    states = [simulator.initial_state(n_episodes * len(actors))]
    actions, rewards = [], []
    for _ in range(EPISODE_STEPS):
        parts = simulator.observation(states[-1]).chunk(len(actors))
        mean, log_std = (th.cat(part) for part in zip(*map(lambda f, x: f(x), actors, parts), strict=True))
        action = squashed_action(mean, log_std, th.randn_like(mean))
        is_random = th.rand(len(action), 1) < random_fraction
        actions.append(th.where(is_random, 2.0 * th.rand_like(action) - 1.0, action))
        rewards.append(simulator.reward(states[-1], actions[-1]))
        states.append(simulator.next(states[-1], actions[-1]))
    stacked = th.stack(states)
    return Data(stacked, simulator.observation(stacked), th.stack(actions), th.stack(rewards))


def fit(data: Data, horizon: int, sim_norm: bool, n_updates: int, batch_size: int = 64) -> WorldModel:
    """
    Train a world model.

    :param data: The episodes.
    :param horizon: Number of steps of the sequences that it learns from.
    :param sim_norm: Whether its latents are normalized by SimNorm.
    :param n_updates: Number of updates.
    :param batch_size: Number of sequences in an update.
    :return: The world model.
    """
    th.manual_seed(0)
    config = WorldModelConfig(
        observation_dim=data.observations.shape[-1],
        action_dim=data.actions.shape[-1],
        latent_dim=64,
        encoder_dim=128,
        mlp_dim=128,
        activation="silu",
        simnorm_dim=8 if sim_norm else 0,
    )
    world_model = WorldModel(config)
    world_model.count_observations(data.observations.flatten(0, 1))
    optimizer = th.optim.Adam(world_model.parameters(), lr=1e-3, fused=True)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_updates)
    n_steps, n_episodes = data.rewards.shape
    ones = th.ones(horizon, batch_size)
    for _ in range(n_updates):
        episodes = th.randint(n_episodes, (batch_size,))
        steps = th.randint(n_steps - horizon + 1, (batch_size,)) + th.arange(horizon + 1).unsqueeze(-1)
        batch = SequenceBatch(
            data.observations[steps, episodes],
            data.actions[steps[:-1], episodes],
            data.rewards[steps[:-1], episodes],
            terminations=0.0 * ones,
            mask=ones,
        )
        optimizer.zero_grad()
        world_model_loss(world_model, batch).total.backward()
        nn.utils.clip_grad_norm_(world_model.parameters(), 20.0)
        optimizer.step()
        schedule.step()
    return world_model.requires_grad_(False)


def measure(
    simulator: Simulator, world_models: Mapping[str, WorldModel], actor: Actor, states: th.Tensor
) -> dict[str, dict[int, Noise]]:
    """
    Noise of the gradients of a policy.

    :param simulator: The simulator.
    :param world_models: World models by their names.
    :param actor: The policy.
    :param states: Start states ``(N, S)`` of the simulator.
    :return: By name and horizon. The whole gradient of the true dynamics is first, then the one with PWM's detached
        input of the policy.
    """
    noise = th.randn(HORIZONS[-1], len(states), simulator.action_dim)
    gradients = {
        "true dynamics": sample_gradients(simulator, actor, simulator.observation, states, noise, HORIZONS, False),
        "true, detached": sample_gradients(simulator, actor, simulator.observation, states, noise, HORIZONS),
    }
    for name, world_model in world_models.items():
        followed = Followed(simulator, world_model)
        gradients[name] = sample_gradients(followed, actor, followed.look, followed.start(states), noise, HORIZONS)
    return {name: {h: gradient_noise(g) for h, g in of_name.items()} for name, of_name in gradients.items()}


def tabulate(results: Mapping[str, Mapping[int, Noise]]) -> Table:
    """:return: Variance, signal-to-noise ratio and cosine for each horizon, by the name of the dynamics."""
    reference = results["true, detached"]
    return {
        name: {
            "variance": [noise.variance for noise in of_name.values()],
            "signal-to-noise ratio": [noise.esnr for noise in of_name.values()],
            "cosine with the true gradient": [
                float(th.cosine_similarity(noise.mean, reference[horizon].mean, dim=0))
                for horizon, noise in of_name.items()
            ],
        }
        for name, of_name in results.items()
    }


def print_table(table: Table) -> None:
    """Print a table, a line for each name and quantity."""
    print(f"  {'':22s}" + "".join(f"{f'H = {horizon}':>10s}" for horizon in HORIZONS))
    for name, of_name in table.items():
        for quantity, values in of_name.items():
            title = name if quantity == "variance" else ""
            print(f"  {title:22s}" + "".join(f"{value:10.3g}" for value in values) + f"  {quantity}")


def draw(axes: Sequence[plt.Axes], table: Table) -> None:
    """Draw each quantity of a table against the horizon."""
    for name, of_name in table.items():
        style = "--" if name.endswith(("detached", "without SimNorm")) else "-"
        for axis, (quantity, values) in zip(axes, of_name.items(), strict=True):
            axis.plot(HORIZONS, values, style, marker=".", color=COLORS[name], label=name)
            axis.set(xlabel="horizon", ylabel=quantity, xscale="log")
            axis.set_yscale("linear" if quantity.startswith("cosine") else "log")
            axis.set_xticks(HORIZONS, HORIZONS)
            axis.minorticks_off()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=50, help="number of episodes of each policy in the data")
    parser.add_argument("--policy-updates", type=int, default=40, help="number of updates of the better policy")
    parser.add_argument("--updates", type=int, default=5_000, help="number of updates of each world model")
    parser.add_argument("--rollouts", type=int, default=256, help="number of rollouts that the statistics are of")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    parser.add_argument("--out", type=Path, default=Path("gradient_noise.png"), help="file of the picture")
    args = parser.parse_args()

    th.manual_seed(args.seed)
    simulator = DoublePendulumSwingup()
    untrained = Actor(simulator.observation_dim, simulator.action_dim, (32, 32), nn.SiLU)
    trained = copy.deepcopy(untrained)
    improve(simulator, trained, args.policy_updates)
    actors = {"untrained policy": untrained, f"policy after {args.policy_updates} updates": trained}
    data = collect(simulator, list(actors.values()), args.episodes)
    rewards = data.rewards.mean(0).chunk(2)
    print("Mean reward in the data: " + ", ".join(f"{n} {r.mean():.2f}" for n, r in zip(actors, rewards, strict=True)))
    world_models = {}
    for sim_norm in (True, False):
        for horizon in (3, 16):
            name = f"H {horizon}" + ("" if sim_norm else " without SimNorm")
            world_models[name] = fit(data, horizon, sim_norm, args.updates)

    figure, grid = plt.subplots(len(actors), 3, figsize=(12, 3.2 * len(actors)), layout="constrained")
    for row, (name, actor) in zip(grid, actors.items(), strict=True):
        th.manual_seed(args.seed + 1)
        visited = data.states[:-1].chunk(2, 1)[list(actors).index(name)].flatten(0, 1)
        states = visited[th.randint(len(visited), (args.rollouts,))]
        table = tabulate(measure(simulator, world_models, actor, states))
        print(name)
        print_table(table)
        draw(row, table)
        row[1].set_title(name)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=80)
    print(f"Picture: {args.out}")


if __name__ == "__main__":
    main()
