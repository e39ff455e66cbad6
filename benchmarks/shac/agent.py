"""Short-horizon actor-critic: PWM's rollouts and losses, with a simulator in the world model's place."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.utils import polyak_update, update_learning_rate
from torch import nn

from sb3_pwm.common.layers import EnsembleMLP
from sb3_pwm.common.statistics import ObservationStatistics
from sb3_pwm.envs.differentiable import Simulator
from sb3_pwm.pwm import losses, optimizers
from sb3_pwm.pwm.imagination import LatentRollout, imagine, imagined_step
from sb3_pwm.pwm.networks import Actor
from sb3_pwm.pwm.pwm import ACTOR_CLIP, CRITIC_CLIP


@dataclasses.dataclass(frozen=True)
class ShacConfig:
    """
    Hyperparameters of SHAC. Defaults are the paper's, where it has one value for all tasks.

    :param n_envs: Number of simulated episodes at a time, N.
    :param horizon: Number of steps of a rollout, H.
    :param gamma: Discount factor.
    :param td_lambda: Lambda of the critic's TD(lambda) targets.
    :param tau: Polyak coefficient of the target critic.
    :param learning_rate: Learning rate of the actor. It decays linearly to zero, and so does the critic's.
    :param critic_learning_rate: Learning rate of the critic.
    :param n_critic_epochs: Number of passes over a rollout's states in an update of the critic.
    :param n_critic_minibatches: Number of minibatches in a pass.
    :param net_arch: Sizes of the hidden layers of actor and critic.
    """

    n_envs: int = 64
    horizon: int = 32
    gamma: float = 0.99
    td_lambda: float = 0.95
    tau: float = 0.2
    learning_rate: float = 2e-3
    critic_learning_rate: float = 2e-3
    n_critic_epochs: int = 16
    n_critic_minibatches: int = 4
    net_arch: tuple[int, ...] = (64, 64)


class Shac:
    """
    Accelerated Policy Learning with Parallel Differentiable Simulation (SHAC).

    Paper: https://arxiv.org/abs/2204.07137. N episodes are simulated at once. At every update they go on for H steps;
    the actor is improved by the gradient of the rewards and of the target critic's last value through the simulator,
    and the critic is regressed to TD(lambda) targets of the same steps.

    PWM's functions do this in the simulator's states. Actor and critic see normalized observations of them, and the
    gradient also passes through what the actor sees. An episode that ends within a rollout begins anew after it.

    :param simulator: The simulator.
    :param total_steps: Number of environment steps of the run, over which the learning rates decay.
    :param config: Hyperparameters.
    :param episode_steps: Number of steps after which an episode is truncated, at the end of a rollout.
    :param seed: Seed of torch's random numbers.
    """

    def __init__(
        self,
        simulator: Simulator,
        total_steps: int,
        config: ShacConfig | None = None,
        episode_steps: int = 500,
        seed: int = 0,
    ):
        th.manual_seed(seed)
        self.simulator = simulator
        self.total_steps = total_steps
        self.config = config = ShacConfig() if config is None else config
        self.episode_steps = episode_steps
        self.n_steps = 0
        """Number of environment steps so far, those after the ends of episodes included"""
        size = simulator.observation_dim
        self.statistics = ObservationStatistics(1, size)
        self.actor = Actor(size, simulator.action_dim, config.net_arch, nn.SiLU)
        self.critic = EnsembleMLP(1, size, config.net_arch, nn.SiLU)
        self.critic_target = EnsembleMLP(1, size, config.net_arch, nn.SiLU)
        polyak_update(self.critic.parameters(), self.critic_target.parameters(), 1.0)
        self.actor_optimizer = th.optim.Adam(self.actor.parameters(), betas=(0.7, 0.95))
        self.critic_optimizer = th.optim.Adam(self.critic.parameters(), betas=(0.7, 0.95))
        self.states = simulator.initial_state(config.n_envs)  # (N, S)
        # Not all episodes are truncated at once.
        self.ages = th.randint(episode_steps, (config.n_envs,))
        self.statistics.update(simulator.observation(self.states))

    def see(self, states: th.Tensor) -> th.Tensor:
        """:return: Normalized observations ``(..., O)`` of states ``(..., S)``."""
        return self.statistics(self.simulator.observation(states))

    def values(self, states: th.Tensor) -> th.Tensor:
        """:return: Values ``(...)`` of states ``(..., S)`` by the target critic."""
        return self.critic_target(self.see(states)).squeeze(0)

    def update(self) -> dict[str, float]:
        """
        Simulate H steps of all episodes, and update actor and critic.

        :return: Metrics, by PWM's names.
        """
        config, progress = self.config, 1.0 - self.n_steps / self.total_steps
        update_learning_rate(self.actor_optimizer, config.learning_rate * progress)
        update_learning_rate(self.critic_optimizer, config.critic_learning_rate * progress)
        noise = th.randn(config.horizon, config.n_envs, self.simulator.action_dim)
        one, zero = th.ones(()), th.zeros(())

        def closure() -> Any:
            rollout = imagine(
                self.simulator,
                lambda states: self.actor(self.see(states)),
                self.states,
                noise,
                termination=True,
                step=partial(imagined_step, detach=False),
            )
            final_values = self.values(rollout.latents[-1])
            # The mean over the steps, as the paper has it, and no entropy bonus
            loss = losses.actor_loss(rollout, final_values, one, one * config.horizon, zero, config.gamma)
            return loss.total, (loss, rollout, final_values)

        (loss, rollout, final_values), norm = optimizers.step(self.actor_optimizer, closure, ACTOR_CLIP)
        critic_loss = self._update_critic(rollout, final_values)
        self._go_on(rollout)
        return {"actor_loss": loss.total.item(), "critic_loss": critic_loss, "actor_grad_norm": norm.item()}

    def _update_critic(self, rollout: LatentRollout, final_values: th.Tensor) -> float:
        """Make steps on the TD(lambda) targets of a rollout, and update the statistics of observations."""
        config = self.config
        with th.no_grad():
            next_values = th.cat([self.values(rollout.latents[1:-1]), final_values.unsqueeze(0)])
            states = losses.imagined_targets(rollout, next_values, th.ones(()), config.gamma, config.td_lambda)
            observations = self.simulator.observation(states.latents)
            self.statistics.update(observations[states.weights > 0.0])
            observations = self.statistics(observations)

        def closure(part: th.Tensor) -> Any:
            loss = losses.critic_loss(self.critic(observations[part]), states.targets[part], states.weights[part])
            return loss, loss

        for _ in range(config.n_critic_epochs):
            for part in th.randperm(len(observations)).chunk(config.n_critic_minibatches):
                loss, _ = optimizers.step(self.critic_optimizer, partial(closure, part), CRITIC_CLIP)
        polyak_update(self.critic.parameters(), self.critic_target.parameters(), config.tau)
        value: float = loss.item()
        return value

    def _go_on(self, rollout: LatentRollout) -> None:
        """Continue where a rollout ended, and begin new episodes in place of those that are over."""
        self.n_steps += rollout.rewards.numel()
        self.ages += len(rollout.rewards)
        over = (rollout.continues.amin(0) == 0.0) | (self.ages >= self.episode_steps)
        self.ages[over] = 0
        new = self.simulator.initial_state(len(over))
        self.states = th.where(over.unsqueeze(-1), new, rollout.latents[-1].detach())

    @th.no_grad()
    def predict(self, observation: np.ndarray, state: None = None, **kwargs: Any) -> tuple[np.ndarray, None]:
        """
        Choose actions without noise, for SB3's ``evaluate_policy``.

        :param observation: Observations ``(n_envs, O)``.
        :param state: Not used.
        :param kwargs: Not used.
        :return: Actions ``(n_envs, A)``, and None.
        """
        mean, _ = self.actor(self.statistics(th.as_tensor(observation)))
        return th.tanh(mean).numpy(), None
