"""Rollouts of a world model along given actions. Pure functions of tensors."""

from collections.abc import Callable

import torch as th

from sb3_pwm.world_model.model import WorldModel


def rollout(
    world_model: WorldModel,
    latents: th.Tensor,
    actions: th.Tensor,
    task: th.Tensor | None = None,
    step: Callable[..., th.Tensor] = WorldModel.next,
) -> th.Tensor:
    """
    Predict the latents that a sequence of actions leads to, without looking at what really followed (open loop).

    :param world_model: The model.
    :param latents: Start latents ``(B, Z)``.
    :param actions: Actions ``(H, B, A)`` in [-1, 1]; the first dimension is the horizon.
    :param task: Task indices ``(B,)`` of a multi-task model, or one index.
    :param step: :meth:`WorldModel.next`, or a compiled form of it.
    :return: Latents ``(H + 1, B, Z)``, the first of which are the start latents.
    """
    trajectory = [latents]
    for step_actions in actions:
        trajectory.append(step(world_model, trajectory[-1], step_actions, task))
    return th.stack(trajectory)
