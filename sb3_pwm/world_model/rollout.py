"""Rollout of a world model along given actions, a pure function of tensors."""

from collections.abc import Callable

import torch as th


def rollout(
    step: Callable[[th.Tensor, th.Tensor, th.Tensor | None], th.Tensor],
    latents: th.Tensor,
    actions: th.Tensor,
    task: th.Tensor | None = None,
) -> th.Tensor:
    """
    Predict the latents along a sequence of actions (open loop).

    :param step: Function that predicts the next latents, :meth:`WorldModel.next` of a world model.
    :param latents: Start latents ``(..., Z)``.
    :param actions: Actions ``(H, ..., A)``, scaled to [-1, 1].
    :param task: Task indices of a multi-task model, of a shape that broadcasts to ``(...)``; None for a single-task
        model.
    :return: Latents ``(H + 1, ..., Z)``, the first of which are the start latents.
    """
    trajectory = [latents]
    for step_actions in actions:
        trajectory.append(step(trajectory[-1], step_actions, task))
    return th.stack(trajectory)
