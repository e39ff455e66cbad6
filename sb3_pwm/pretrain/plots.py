"""Picture of the predictions of a world model along held-out episodes."""

from pathlib import Path

import numpy as np
import torch as th
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sb3_pwm.common.files import atomic_write
from sb3_pwm.data.dataset import OfflineDataset
from sb3_pwm.world_model.model import WorldModel


@th.no_grad()
def draw_predictions(
    world_model: WorldModel,
    dataset: OfflineDataset,
    rows: th.Tensor | None,
    horizon: int,
    out: Path,
    n_tasks: int = 6,
) -> None:
    """
    Draw predicted and true rewards, and the error of the latent, along one episode of several tasks.

    A prediction is open-loop over the horizon. The next one starts from the true observation.

    :param world_model: The world model.
    :param dataset: The held-out episodes.
    :param rows: Task indices of the world model, see :func:`~sb3_pwm.pretrain.batches.task_rows`.
    :param horizon: Number of steps of a prediction, H.
    :param out: File of the picture, a PNG.
    :param n_tasks: Largest number of tasks. They are spread evenly over all tasks.
    """
    device = next(world_model.parameters()).device
    chosen = np.unique(np.linspace(0, len(dataset.data) - 1, n_tasks).round().astype(int)).tolist()
    figure = Figure(figsize=(10.0, 1.9 * len(chosen) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen), 2, squeeze=False)
    for (reward_axis, latent_axis), number in zip(axes, chosen, strict=True):
        task = dataset.data[number]
        episode = task.episode(0)
        index = None if rows is None else rows[number].to(device)
        predicted, errors = _predict_along(world_model, episode.observations, episode.actions, index, horizon)
        reward_axis.plot(episode.rewards, color="black", linewidth=1.0, label="true")
        reward_axis.plot(predicted, color="tab:red", linewidth=1.0, label=f"predicted, {horizon} steps each")
        reward_axis.set_title(f"{task.name}: reward", fontsize=8)
        latent_axis.plot(errors, color="tab:blue", linewidth=1.0)
        latent_axis.set_title(f"{task.name}: squared error of the latent", fontsize=8)
        for axis in (reward_axis, latent_axis):
            axis.tick_params(labelsize=7)
    axes[0, 0].legend(fontsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("step", fontsize=8)
    with atomic_write(out) as file:
        figure.savefig(file, dpi=110, format="png")


def _predict_along(
    world_model: WorldModel,
    observations: np.ndarray,
    actions: np.ndarray,
    task: th.Tensor | None,
    horizon: int,
) -> tuple[np.ndarray, np.ndarray]:
    """:return: Predicted rewards and squared errors of the latents along an episode, ``(T,)`` each."""
    device = next(world_model.parameters()).device
    targets = world_model.encode(th.tensor(observations, device=device), task)
    rewards, errors = [], []
    latent = targets[0]
    for step, action in enumerate(th.tensor(actions, device=device)):
        if step % horizon == 0:
            latent = targets[step]
        rewards.append(world_model.reward(latent, action, task))
        latent = world_model.next(latent, action, task)
        errors.append(((latent - targets[step + 1]) ** 2).mean())
    return th.stack(rewards).cpu().numpy(), th.stack(errors).cpu().numpy()
