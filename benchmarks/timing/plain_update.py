"""
The updates of PWM without any optimization: the reference of ``benchmarks/speed.py``.

Critics and rewards are computed one after the other. All parameters have gradients. Mish and the loop form of Adam are
those of torch. Nothing is batched, frozen, fused or compiled. A test compares the parameters after an update with those
of :class:`sb3_pwm.PWM`.
"""

from __future__ import annotations

import copy

import torch as th
from torch import nn

from sb3_pwm import PWM
from sb3_pwm.common.layers import EnsembleLayerNorm, EnsembleLinear, EnsembleMLP
from sb3_pwm.common.statistics import RunningScale
from sb3_pwm.data.types import SequenceBatch
from sb3_pwm.pwm.networks import squashed_action, squashed_log_prob
from sb3_pwm.pwm.pwm import ACTOR_CLIP, CRITIC_CLIP, WORLD_MODEL_CLIP
from sb3_pwm.world_model.losses import world_model_loss


def use_plain_activations(module: nn.Module) -> None:
    """:param module: Networks of this package. Their Mish is replaced by that of torch."""
    for name, child in module.named_children():
        if isinstance(child, nn.Mish):
            setattr(module, name, nn.Mish())
        else:
            use_plain_activations(child)


def separate(ensemble: EnsembleMLP) -> nn.ModuleList:
    """
    :param ensemble: N networks in batched form.
    :return: The same N networks as separate modules.
    """
    members = nn.ModuleList()
    for n in range(ensemble.n_members):
        layers: list[nn.Module] = []
        for layer in ensemble.layers:
            plain: nn.Module
            if isinstance(layer, EnsembleLinear):
                plain = nn.Linear(layer.weight.shape[1], layer.weight.shape[2], device=layer.weight.device)
                plain.weight.data.copy_(layer.weight.data[n].T)
                plain.bias.data.copy_(layer.bias.data[n, 0])
            elif isinstance(layer, EnsembleLayerNorm):
                plain = nn.LayerNorm(layer.features, device=layer.weight.device)
                plain.weight.data.copy_(layer.weight.data[n, 0])
                plain.bias.data.copy_(layer.bias.data[n, 0])
            else:
                plain = copy.deepcopy(layer)
            layers.append(plain)
        members.append(nn.Sequential(*layers))
    return members


class PlainUpdate:
    """
    World-model and extraction updates of a PWM model, on copies of its networks.

    :param model: Model whose networks, coefficients and learning rates are copied. The model is not changed. The
        entropy coefficient must be a number, and the world model must be single-task.
    :raises ValueError: If the entropy coefficient is learned.
    """

    def __init__(self, model: PWM):
        if isinstance(model.ent_coef, str):
            raise ValueError(f"ent_coef={model.ent_coef!r} is learned: give the reference's model a number.")
        policy = model.policy
        self.model, self.ent_coef = model, float(model.ent_coef)
        self.world_model, self.actor = copy.deepcopy(policy.world_model), copy.deepcopy(policy.actor)
        self.critics, self.target_critics = separate(policy.critic), separate(policy.critic_target)
        for networks in (self.world_model, self.actor, self.critics, self.target_critics):
            use_plain_activations(networks)
        self.reward_scale: RunningScale = copy.deepcopy(policy.reward_scale)
        self.return_scale: RunningScale = copy.deepcopy(policy.return_scale)

        def adam(module: nn.Module, like: th.optim.Optimizer) -> th.optim.Adam:
            group = like.param_groups[0]
            return th.optim.Adam(module.parameters(), lr=group["lr"], betas=group["betas"], foreach=False, fused=False)

        self.world_model_optimizer = adam(self.world_model, policy.world_model_optimizer)
        self.actor_optimizer = adam(self.actor, policy.actor_optimizer)
        self.critic_optimizer = adam(self.critics, policy.critic_optimizer)

    def update_world_model(self, batch: SequenceBatch) -> None:
        """:param batch: Replayed sequences."""
        loss = world_model_loss(self.world_model, batch, self.model.rho, termination=self.model.terminations_seen)
        self.world_model_optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(self.world_model.parameters(), WORLD_MODEL_CLIP)
        self.world_model_optimizer.step()
        self.reward_scale.update((batch.rewards**2).mean().sqrt())

    def update_actor_and_critics(self, batch: SequenceBatch) -> None:
        """:param batch: Replayed sequences; the rollouts start from their first observations."""
        model, gamma, termination = self.model, self.model.gamma, self.model.terminations_seen
        with th.no_grad():
            latent = self.world_model.encode(batch.observations[0])
        noise = th.randn(model.horizon, len(latent), self.world_model.config.action_dim, device=latent.device)

        latents, rewards, continues, log_probs = [latent], [], [], []
        for step_noise in noise:
            mean, log_std = self.actor(latent.detach())
            action = squashed_action(mean, log_std, step_noise)
            rewards.append(self.world_model.reward(latent, action) / self.reward_scale.value)
            log_probs.append(squashed_log_prob(mean, log_std, step_noise))
            latent = self.world_model.next(latent, action)
            continues.append(self.world_model.continuation(latent) if termination else th.ones_like(rewards[0]))
            latents.append(latent)
        final_value = th.stack([critic(latent).squeeze(-1) for critic in self.target_critics]).amin(0)
        weight, total, entropy_term = th.ones_like(final_value), th.zeros_like(final_value), 0.0
        reached, weights = th.ones_like(final_value), []
        for reward, going, log_prob in zip(rewards, continues, log_probs, strict=True):
            total = total + weight * reward
            entropy_term = entropy_term + (reached * log_prob).mean() / model.horizon
            weights.append(reached)
            weight, reached = weight * gamma * going, reached * going.detach()
        total = total + weight * final_value
        loss = -total.mean() / self.return_scale.value.clamp(min=1.0) + self.ent_coef * entropy_term
        self.return_scale.update(total.detach().std(correction=0))
        self.actor_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.actor.parameters(), ACTOR_CLIP)
        self.actor_optimizer.step()

        with th.no_grad():
            target, targets = final_value, []
            for t in range(model.horizon - 1, -1, -1):
                value = th.stack([critic(latents[t + 1]).squeeze(-1) for critic in self.target_critics]).amin(0)
                mixed = (1 - model.td_lambda) * value + model.td_lambda * target
                target = rewards[t] + gamma * continues[t] * mixed
                targets.append(target)
            all_targets, all_weights = th.cat(targets[::-1]), th.cat(weights)
            states = th.cat(latents[:-1])
        for _ in range(model.n_critic_epochs):
            order = th.randperm(len(states), device=states.device)
            for part in order.chunk(model.n_critic_minibatches):
                self.critic_optimizer.zero_grad()
                for critic in self.critics:
                    error = critic(states[part]).squeeze(-1) - all_targets[part]
                    (error**2 * all_weights[part]).mean().backward()
                nn.utils.clip_grad_norm_(self.critics.parameters(), CRITIC_CLIP)
                self.critic_optimizer.step()
        with th.no_grad():
            for average, critic in zip(self.target_critics.parameters(), self.critics.parameters(), strict=True):
                average.mul_(1 - model.tau).add_(critic, alpha=model.tau)
