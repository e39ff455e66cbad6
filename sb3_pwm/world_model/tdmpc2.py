"""Reader of world models of TD-MPC2 and PWM (.pt), which executes no code in the files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th

from sb3_pwm.common.plain_tensors import load_plain_tensors
from sb3_pwm.tasks import SUITES

# Names of the networks in the files, and in this package. Policy, Q-functions and masks in the files are left out.
_NETWORKS = {
    "_encoder.state.": "encoder.",
    "_dynamics.": "dynamics.",
    "_reward.": "reward_network.",
    "_termination.": "termination_network.",  # only in models of tasks that terminate (TD-MPC2's episodic=true)
}
_EMBEDDING = "_task_emb.weight"
# Keys of the state dict in the files of TD-MPC2 and of PWM
_CONTAINERS = ("model", "world_model")


def read_tdmpc2(path: str | Path, tasks: Sequence[str] | None = None) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
    """
    Read a world model of TD-MPC2 or PWM, single-task or multi-task, with the key names of any of their versions.

    :param path: The .pt file.
    :param tasks: Names of the tasks, in the order of the rows of the task embedding. None: the names of MT30 or MT80 if
        the model has 30 or 80 tasks, else ``"task-0"``, ``"task-1"`` and so on.
    :return: Fields of the configuration, and the state dict with this package's names. The model has a
        termination head if the file has one.
    :raises FileNotFoundError: If the file does not exist.
    :raises ValueError: If the file holds anything but tensors, or is not such a world model. The message gives the
        reason.
    """
    tensors = _read_tensors(Path(path))
    try:
        return _translate(tensors, tasks)
    except KeyError as error:
        raise ValueError(f"{path} is no world model of TD-MPC2 or PWM: it has no {error.args[0]}.") from error
    except ValueError as error:
        raise ValueError(f"{path} is no world model of TD-MPC2 or PWM that this package reads: {error}") from error


def _read_tensors(path: Path) -> dict[str, th.Tensor]:
    """
    Read the tensors of a file.

    :param path: The file.
    :return: State dict, with the names of the file.
    :raises FileNotFoundError: If the file does not exist.
    :raises ValueError: If the file is damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no world model file {path}.")
    content = load_plain_tensors(path)
    for name in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of tensors.")
    foreign = [str(name) for name, value in content.items() if not isinstance(value, th.Tensor)]
    if foreign:
        raise ValueError(f"{path} holds more than plain tensors: {', '.join(foreign[:5])}.")
    # torch.compile puts this prefix before the names of a module.
    return {str(name).replace("_orig_mod.", ""): value for name, value in content.items()}


def _translate(
    tensors: dict[str, th.Tensor], tasks: Sequence[str] | None
) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
    """
    Translate a state dict to this package's names, and derive the configuration from the shapes.

    :param tensors: State dict, with the names of the file.
    :param tasks: Names of the tasks, see :func:`read_tdmpc2`.
    :return: Fields of the configuration, and the state dict.
    :raises KeyError: If a tensor is missing.
    :raises ValueError: If the architecture is another one, or the names do not fit the tasks.
    """
    state = {}
    for theirs, ours in _NETWORKS.items():
        state.update(
            {ours + name.removeprefix(theirs): v.float() for name, v in tensors.items() if name.startswith(theirs)}
        )
    embedding = tensors.get(_EMBEDDING)
    task_dim = 0 if embedding is None else embedding.shape[1]
    depths = {}
    for network in ("encoder", "dynamics", "reward_network", "termination_network"):
        layers = {int(match.group(1)) for name in state if (match := re.match(rf"{network}\.(\d+)\.weight", name))}
        depths[network] = len(layers)
    if any(depths[network] not in (0, 3) for network in ("dynamics", "reward_network", "termination_network")):
        raise ValueError("its dynamics, reward and termination networks must have two hidden layers.")

    latent_dim = state["dynamics.2.weight"].shape[0]
    reward_outputs = state["reward_network.2.weight"].shape[0]
    config: dict[str, Any] = dict(
        observation_dim=state["encoder.0.weight"].shape[1] - task_dim,
        action_dim=state["dynamics.0.weight"].shape[1] - latent_dim - task_dim,
        latent_dim=latent_dim,
        encoder_dim=state["encoder.0.weight"].shape[0],
        encoder_layers=depths["encoder"],
        mlp_dim=state["dynamics.0.weight"].shape[0],
        termination=depths["termination_network"] > 0,
        normalize_observations=False,
    )
    if reward_outputs == 1:
        config["reward_head"] = "scalar"
    else:
        config["num_bins"] = reward_outputs
    if embedding is None:
        if tasks is not None:
            raise ValueError("it is a single-task model: leave tasks out.")
        return config, state

    state["task_embedding.weight"] = embedding.float()
    config.update(tasks=_task_names(len(embedding), tasks), task_dim=task_dim)
    # Inputs in the file are latent, embedding and action. In this package, they are latent, action and embedding.
    for name in ("dynamics.0.weight", "reward_network.0.weight"):
        latent, task, action = state[name].split([latent_dim, task_dim, config["action_dim"]], dim=1)
        state[name] = th.cat([latent, action, task], dim=1)
    return config, state


def _task_names(number: int, tasks: Sequence[str] | None) -> tuple[str, ...]:
    """:return: Names of the tasks of a model with this number of tasks, see :func:`read_tdmpc2`."""
    if tasks is not None:
        if len(tasks) != number:
            raise ValueError(f"it has {number} tasks; {len(tasks)} names were given.")
        return tuple(tasks)
    suites = {len(suite.tasks): suite.tasks for suite in SUITES.values()}
    return suites.get(number, tuple(f"task-{row}" for row in range(number)))
