"""Rollout of a world model along given actions, a pure function of tensors."""

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
    Predict the latents along a sequence of actions (open loop).

    :param world_model: The world model.
    :param latents: Start latents ``(B, Z)``.
    :param actions: Actions ``(H, B, A)``, scaled to [-1, 1].
    :param task: Task indices ``(B,)`` of a multi-task model; None for a single-task model.
    :param step: :meth:`WorldModel.next`, or its compiled form.
    :return: Latents ``(H + 1, B, Z)``, the first of which are the start latents.
    """
    trajectory = [latents]
    for step_actions in actions:
        trajectory.append(step(world_model, trajectory[-1], step_actions, task))
    return th.stack(trajectory)
